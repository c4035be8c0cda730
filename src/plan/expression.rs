//! `${...}` in what a task is given, as Conductor replaces it, for where there is no Conductor.

use serde_json::{Map, Value};

/// What every expression in `value` refers to.
pub(super) fn references(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    visit(value, &mut |text| {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("${") {
            let (reference, behind) = after.split_once('}').unwrap_or((after, ""));
            found.push(reference.trim().to_owned());
            rest = behind;
        }
    });
    found
}

fn visit(value: &Value, on_text: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => on_text(text),
        Value::Array(items) => items.iter().for_each(|item| visit(item, on_text)),
        Value::Object(map) => map.values().for_each(|item| visit(item, on_text)),
        _ => {}
    }
}

/// The value with its expressions replaced by what `known` has. What is not there becomes null, or
/// nothing within a text, as a server does it.
pub(super) fn resolve(value: &Value, known: &Map<String, Value>) -> Value {
    match value {
        Value::String(text) => resolve_text(text, known),
        Value::Array(items) => items.iter().map(|item| resolve(item, known)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, item)| (key.clone(), resolve(item, known)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

fn resolve_text(text: &str, known: &Map<String, Value>) -> Value {
    let whole = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'));
    if let Some(reference) = whole.filter(|reference| !reference.contains('}')) {
        return look_up(reference.trim(), known);
    }
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let Some((reference, behind)) = after.split_once('}') else {
            break;
        };
        done.push_str(before);
        match look_up(reference.trim(), known) {
            Value::Null => {}
            Value::String(text) => done.push_str(&text),
            other => done.push_str(&other.to_string()),
        }
        rest = behind;
    }
    done.push_str(rest);
    done.into()
}

fn look_up(reference: &str, known: &Map<String, Value>) -> Value {
    let mut parts = reference.split('.');
    let mut value = parts.next().and_then(|first| known.get(first));
    for part in parts {
        value = value.and_then(|value| value.get(part));
    }
    value.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_keep_their_type_alone_and_become_text_within_text() {
        let known = json!({"workflow": {"input": {"n": 3}}, "t-1": {"output": {"x": ["y"]}}});
        let known = known.as_object().unwrap();
        let value = json!({"a": "${workflow.input.n}", "b": ["is ${t-1.output.x}, ${no.such}"],
            "c": "${no.such}", "d": 1});
        let expected = json!({"a": 3, "b": ["is [\"y\"], "], "c": null, "d": 1});
        assert_eq!(resolve(&value, known), expected);
        let found = references(&value);
        assert_eq!(found.len(), 4);
        assert!(found.contains(&"t-1.output.x".to_owned()));
    }
}
