//! The report in the form that CI systems read.

use super::{Report, TestReport, TierReport};
use std::fmt::Write;

/// The report as `JUnit` XML: a suite a tier, a case a test.
#[must_use]
pub fn junit(report: &Report) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all = report.passed + report.not_passed;
    let _ = writeln!(
        text,
        "<testsuites name=\"k1ops validate\" tests=\"{all}\" failures=\"{}\" time=\"{:.3}\">",
        report.not_passed, report.seconds
    );
    for tier in &report.tiers {
        suite(tier, report, &mut text);
    }
    text.push_str("</testsuites>\n");
    text
}

fn suite(tier: &TierReport, report: &Report, text: &mut String) {
    let not_passed = tier.tests.iter().filter(|test| !test.passed).count();
    let seconds: f64 = tier.tests.iter().map(|test| test.seconds).sum();
    let _ = writeln!(
        text,
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{not_passed}\" errors=\"0\" \
         time=\"{seconds:.3}\" timestamp=\"{}\">",
        tier.tier.name(),
        tier.tests.len(),
        report.started_at.format("%Y-%m-%dT%H:%M:%S")
    );
    for test in &tier.tests {
        case(test, tier.tier.name(), text);
    }
    text.push_str("  </testsuite>\n");
}

fn case(test: &TestReport, suite: &str, xml: &mut String) {
    let _ = write!(
        xml,
        "    <testcase name=\"{}\" classname=\"k1ops.validate.{suite}\" time=\"{:.3}\"",
        escaped(&test.name),
        test.seconds
    );
    match &test.why {
        Some(why) if !test.passed => {
            let why = escaped(why);
            let _ = writeln!(
                xml,
                ">\n      <failure message=\"{why}\">{why}</failure>\n    </testcase>"
            );
        }
        _ => xml.push_str("/>\n"),
    }
}

/// Text for an element or an attribute. What XML cannot hold is replaced.
fn escaped(text: &str) -> String {
    let mut done = String::new();
    for c in text.chars() {
        match c {
            '&' => done.push_str("&amp;"),
            '<' => done.push_str("&lt;"),
            '>' => done.push_str("&gt;"),
            '"' => done.push_str("&quot;"),
            '\n' => done.push_str("&#10;"),
            c if c.is_control() => done.push('\u{fffd}'),
            c => done.push(c),
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_replaced() {
        assert_eq!(
            escaped("a<b & \"c\"\u{1b}[0m\n"),
            "a&lt;b &amp; &quot;c&quot;\u{fffd}[0m&#10;"
        );
    }
}
