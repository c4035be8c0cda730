//! `{{NAME}}` in arguments and variables. A value stays within its argument: nothing here is read
//! by a shell.

use serde_json::{Map, Value};

/// What may stand between the braces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) task_id: &'a str,
    pub(super) workflow_id: &'a str,
    pub(super) attempt: u32,
    pub(super) input: &'a Map<String, Value>,
}

/// Says what is wrong with a text whatever the values are.
pub(super) fn check(text: &str) -> Result<(), String> {
    replace(text, |name| match name {
        "task_id" | "workflow_id" | "attempt" => Ok(String::new()),
        _ if name
            .strip_prefix("input.")
            .is_some_and(|key| !key.is_empty()) =>
        {
            Ok(String::new())
        }
        _ => Err(format!(
            "has {{{{{name}}}}}, which is none of task_id, workflow_id, attempt, input.KEY"
        )),
    })
    .map(drop)
}

/// The text with the values put in. A key that the input lacks is an error.
pub(super) fn expand(text: &str, values: Values) -> Result<String, String> {
    replace(text, |name| match name {
        "task_id" => Ok(values.task_id.to_owned()),
        "workflow_id" => Ok(values.workflow_id.to_owned()),
        "attempt" => Ok(values.attempt.to_string()),
        _ => input(name, values.input),
    })
}

/// `input.a.b`: strings as they are, everything else as JSON.
fn input(name: &str, input: &Map<String, Value>) -> Result<String, String> {
    let mut parts = name.strip_prefix("input.").unwrap_or(name).split('.');
    let missing = || format!("{{{{{name}}}}} is not in the task's input");
    let mut value = parts.next().and_then(|key| input.get(key));
    for part in parts {
        value = value.and_then(|value| value.get(part));
    }
    match value.ok_or_else(missing)? {
        Value::String(text) if text.contains('\0') => {
            Err(format!("{{{{{name}}}}} contains a NUL character"))
        }
        Value::String(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        other => Ok(other.to_string()),
    }
}

fn replace(
    text: &str,
    mut value: impl FnMut(&str) -> Result<String, String>,
) -> Result<String, String> {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after
            .split_once("}}")
            .ok_or_else(|| "has {{ without }}".to_owned())?;
        done.push_str(before);
        done.push_str(&value(name.trim())?);
        rest = behind;
    }
    done.push_str(rest);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_put_in_and_never_read_again() {
        let input = json!({"a": "{{task_id}} $(x)", "b": {"c": [1]}});
        let values = Values {
            task_id: "t",
            workflow_id: "w",
            attempt: 2,
            input: input.as_object().unwrap(),
        };
        let expand = |text| expand(text, values);
        assert_eq!(expand("{{task_id}}-{{ attempt }}"), Ok("t-2".into()));
        assert_eq!(expand("{{input.a}}"), Ok("{{task_id}} $(x)".into()));
        assert_eq!(expand("x{{input.b.c}}"), Ok("x[1]".into()));
        assert!(expand("{{input.z}}").unwrap_err().contains("input.z"));
        assert!(check("{{input.z}} {{workflow_id}}").is_ok());
        assert!(check("{{nothing}}").is_err() && check("{{task_id").is_err());
    }
}
