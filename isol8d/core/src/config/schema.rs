//! The JSON Schema of the file, generated from the types that read it.

use schemars::{generate::SchemaSettings, transform::RestrictFormats};
use serde_json::Value;

use super::{Config, layer::Keys};

impl Config {
    /// The JSON Schema (draft 7, which every editor knows) of a configuration
    /// file, with the defaults in it.
    #[must_use]
    pub fn json_schema() -> Value {
        let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
        let schema = settings
            .with_transform(RestrictFormats::default())
            .into_generator()
            .into_root_schema_for::<Keys>();
        let mut schema = schema.to_value();
        schema["title"] = "isol8.config.json".into();
        put_defaults(&mut schema, &Self::default().to_json());
        schema
    }
}

/// Writes each default beside the key that it belongs to. The generator would
/// take them from the layer, where everything is absent.
fn put_defaults(schema: &mut Value, defaults: &Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    fields.remove("default");
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        for (key, schema) in properties {
            put_defaults(schema, defaults.get(key).unwrap_or(&Value::Null));
        }
    } else if !defaults.is_null() {
        fields.insert("default".to_owned(), defaults.clone());
    }
}
