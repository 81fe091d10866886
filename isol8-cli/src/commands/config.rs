//! `isol8 config`.

use isol8_core::{config::Config, failure::Failure};
use serde_json::Value;

use super::{
    answer_json,
    table::{print, table},
};
use crate::{args::ConfigArgs, exit::Exit, settings};

/// Prints the configuration, each key with where its value comes from.
pub(super) fn config(args: &ConfigArgs) -> Result<Exit, Failure> {
    if args.schema {
        return answer_json(&Config::json_schema());
    }
    let resolved = settings::load()?;
    let shown = resolved.to_json();
    if args.json {
        return answer_json(&shown);
    }
    let file = match &resolved.file {
        Some(path) => format!("file: {}\n", path.display()),
        None => "file: none, these are the defaults\n".to_owned(),
    };
    let mut rows = Vec::new();
    flatten("", &shown["config"], &mut rows);
    let rows = rows
        .into_iter()
        .map(|(key, value)| {
            let source = shown["sources"][&key].as_str().unwrap_or("default");
            vec![key, value, source.to_owned()]
        })
        .collect();
    print(&[file, table(&["key", "value", "from"], rows)])
}

/// Every leaf under its dotted key. An empty object is a leaf.
fn flatten(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{name}"), value, rows);
            }
        }
        Value::Null => rows.push((prefix.to_owned(), "-".to_owned())),
        Value::String(text) => rows.push((prefix.to_owned(), text.clone())),
        value => rows.push((prefix.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_have_dotted_keys() {
        let value = serde_json::json!({"a": {"b": 1, "c": null}, "d": [], "e": "x"});
        let mut rows = Vec::new();
        flatten("", &value, &mut rows);
        let expected = [("a.b", "1"), ("a.c", "-"), ("d", "[]"), ("e", "x")];
        assert_eq!(rows, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
