//! `/openapi.json`: OpenAPI 3.1 of the gateway. Its schemas come from the types that
//! are read and written, so that they cannot say something else.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{Response, StatusCode},
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    api::{
        self, CleanupBody, CleanupResult, Done, ErrorBody, ExecuteBody, ExecutionResult,
        FileResult, Health, PutFileBody, SessionList, SocketInput, SocketStart, StreamEvent,
        schema,
    },
    gateway::Shared,
};

pub(super) async fn document(State(shared): State<Arc<Shared>>) -> Response<Body> {
    api::json(StatusCode::OK, &describe(&shared.version))
}

const JSON: &str = "application/json";

/// What a path answers when it goes wrong, besides those of every path.
const OF_RUNS: &[u16] = &[400, 404, 408, 409, 413, 415, 429, 502, 504];
const OF_SESSIONS: &[u16] = &[400, 404, 409, 502, 504];
const OF_FILES: &[u16] = &[400, 404, 408, 409, 413, 415, 429, 502, 504];

struct Document {
    schemas: SchemaGenerator,
    errors: Value,
    paths: Map<String, Value>,
}

fn describe(version: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let errors = schemas.subschema_for::<ErrorBody>().to_value();
    let mut document = Document {
        schemas,
        errors,
        paths: Map::new(),
    };
    document.runs();
    document.socket();
    document.sessions();
    document.system();
    let Document {
        mut schemas, paths, ..
    } = document;
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "isol8",
            "version": version,
            "description": "Runs programs in sandboxes.",
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
    })
}

impl Document {
    fn runs(&mut self) {
        let body = self.body::<ExecuteBody>(true);
        let result = self.answer::<ExecutionResult>(JSON);
        let event = json!({ "type": "object", "required": ["data"], "properties": {
            "data": {
                "type": "string",
                "contentMediaType": JSON,
                "contentSchema": self.schemas.subschema_for::<StreamEvent>(),
            },
        } });
        // Of each event, as OpenAPI 3.2 has it in `itemSchema`.
        let event = json!({ "text/event-stream": { "schema": event } });
        self.add(
            "post",
            "/execute",
            "Run a program",
            json!({
                "requestBody": body.clone(),
            }),
            result,
            OF_RUNS,
        );
        self.add(
            "post",
            "/execute/stream",
            "Run a program and stream its events",
            json!({
                "requestBody": body,
            }),
            event,
            OF_RUNS,
        );
    }

    fn socket(&mut self) {
        let start = self.schemas.subschema_for::<SocketStart>();
        let input = self.schemas.subschema_for::<SocketInput>();
        let event = self.schemas.subschema_for::<StreamEvent>();
        let description = "A WebSocket: the first message is a SocketStart, every other one a \
                           SocketInput; the answers are StreamEvents.";
        let header = |name: &str, value: &str| json!({ "in": "header", "name": name, "required": true, "schema": { "type": "string", "enum": [value] } });
        self.add(
            "get",
            "/execute/ws",
            "Run a program with live stdin and signals",
            json!({
                "description": description,
                "parameters": [
                    header("Connection", "Upgrade"),
                    header("Upgrade", "websocket"),
                    header("Sec-WebSocket-Version", "13"),
                    {
                        "in": "header", "name": "Sec-WebSocket-Key", "required": true,
                        "schema": { "type": "string", "pattern": "^[A-Za-z0-9+/]{21}[AQgw]==$" },
                    },
                ],
                "x-messages": { "first": start, "next": input, "events": event },
            }),
            json!({}),
            &[400, 429],
        );
        let responses = &mut self.paths["/execute/ws"]["get"]["responses"];
        let responses = responses.as_object_mut().expect("it was just made");
        responses.remove("200");
        let switched = json!({ "description": "It is a WebSocket from here on" });
        responses.insert("101".to_owned(), switched);
    }

    fn sessions(&mut self) {
        let done = self.answer::<Done>(JSON);
        let body = self.body::<PutFileBody>(true);
        self.add(
            "post",
            "/file",
            "Write a file of a session",
            json!({
                "requestBody": body,
            }),
            done.clone(),
            OF_FILES,
        );
        let file = self.answer::<FileResult>(JSON);
        self.add(
            "get",
            "/file",
            "Read a file of a session",
            json!({
                "parameters": [
                    text("query", "sessionId", schema::SESSION_ID),
                    text("query", "path", schema::PATH),
                ],
            }),
            file,
            OF_FILES,
        );
        let list = self.answer::<SessionList>(JSON);
        self.add(
            "get",
            "/sessions",
            "List the key's sessions",
            json!({}),
            list,
            OF_SESSIONS,
        );
        let force = json!({
            "in": "query", "name": "force", "required": false, "schema": { "type": "boolean" },
            "description": "Also while a run goes on in it.",
        });
        self.add(
            "delete",
            "/session/{id}",
            "Remove a session",
            json!({
                "parameters": [text("path", "id", schema::SESSION_ID), force],
            }),
            done,
            OF_SESSIONS,
        );
        let body = self.body::<CleanupBody>(false);
        let counts = self.answer::<CleanupResult>(JSON);
        self.add(
            "post",
            "/cleanup",
            "Remove what nobody uses",
            json!({
                "requestBody": body,
            }),
            counts,
            OF_FILES,
        );
    }

    fn system(&mut self) {
        let health = self.answer::<Health>(JSON);
        self.add(
            "get",
            "/health",
            "Whether the gateway is there",
            json!({
                "security": [],
            }),
            health,
            &[400],
        );
        let metrics = json!({ "text/plain": { "schema": { "type": "string" } } });
        self.add(
            "get",
            "/metrics",
            "Metrics for Prometheus",
            json!({}),
            metrics,
            &[400],
        );
        let document = json!({ JSON: { "schema": { "type": "object" } } });
        self.add(
            "get",
            "/openapi.json",
            "This document",
            json!({}),
            document,
            &[400],
        );
    }

    fn add(
        &mut self,
        method: &str,
        path: &str,
        summary: &str,
        mut operation: Value,
        content: Value,
        errors: &[u16],
    ) {
        let mut responses = Map::new();
        responses.insert(
            "200".to_owned(),
            json!({ "description": "Done", "content": content }),
        );
        let of_all: &[u16] = if path == "/health" {
            &[403]
        } else {
            &[401, 403, 503]
        };
        for status in errors.iter().chain(of_all) {
            responses.insert(
                status.to_string(),
                json!({
                    "description": reason(*status),
                    "content": { JSON: { "schema": self.errors.clone() } },
                }),
            );
        }
        operation["summary"] = summary.into();
        operation["responses"] = responses.into();
        let entry = self.paths.entry(path).or_insert_with(|| json!({}));
        entry[method] = operation;
    }

    fn body<T: JsonSchema>(&mut self, required: bool) -> Value {
        let schema = self.schemas.subschema_for::<T>();
        json!({ "required": required, "content": { JSON: { "schema": schema } } })
    }

    fn answer<T: JsonSchema>(&mut self, kind: &str) -> Value {
        let schema = self.schemas.subschema_for::<T>();
        json!({ kind: { "schema": schema } })
    }
}

/// A parameter that must be there.
fn text(place: &str, name: &str, pattern: &str) -> Value {
    let schema = json!({ "type": "string", "pattern": pattern });
    json!({ "in": place, "name": name, "required": true, "schema": schema })
}

fn reason(status: u16) -> &'static str {
    let status = StatusCode::from_u16(status).ok();
    status
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use isol8_core::quantity::Pids;

    use super::*;
    use crate::{
        body,
        job::Job,
        keys::{Key, Keys},
        policy::Policy,
    };

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    found.push(reference.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = describe("1");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 15, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("it is in this document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn what_is_refused_is_not_in_the_schema() {
        let document = describe("1");
        let schema = &document["components"]["schemas"]["ExecuteRequest"];
        assert_eq!(schema["additionalProperties"], false);
        assert!(schema["properties"]["sessionId"].is_object());
        let runtimes = &document["components"]["schemas"]["Runtime"]["enum"];
        assert_eq!(runtimes, &json!(["python", "node", "bun", "deno", "bash"]));
    }

    /// Whether the document allows a value, and whether the gateway takes it.
    #[track_caller]
    fn check(schema: &str, value: &Value, is_taken: bool) {
        let mut document = describe("1");
        document["$ref"] = format!("#/components/schemas/{schema}").into();
        let validator = jsonschema::draft202012::new(&document).expect("it is a schema");
        assert_eq!(validator.is_valid(value), is_taken, "{value}");
    }

    #[test]
    fn what_is_taken_is_in_the_schema() {
        let caller = &Keys::new(vec![Key::new("k", "key", true)]).into_callers(1)[0];
        let program = |field: &str, value: Value| {
            let mut body = json!({"request": {"code": "x", "runtime": "bash"}});
            match field.split_once('.') {
                Some((part, field)) => body[part][field] = value,
                None => body[field] = value,
            }
            let parsed = body::parse(body.to_string().as_bytes());
            let job = parsed.and_then(|body| Job::new(body, caller, &Policy::default()));
            check("ExecuteRequest", &body, job.is_ok());
        };
        let texts = |field: &str, texts: &[&str]| {
            texts.iter().for_each(|text| program(field, json!(text)));
        };
        let numbers = |field: &str, numbers: &[f64]| {
            // A float of a whole number is that number, to JSON Schema alone.
            let whole = |number: f64| serde_json::from_str(&number.to_string());
            for number in numbers {
                program(field, whole(*number).expect("a number"));
            }
        };
        numbers(
            "request.timeoutMs",
            &[0.0, 1.0, 2_592_000_000.0, 2_592_000_001.0, -1.0, 1.5],
        );
        numbers(
            "options.timeoutMs",
            &[0.0, 1.0, 2_592_000_000.0, 2_592_000_001.0],
        );
        numbers(
            "options.pidsLimit",
            &[0.0, 1.0, f64::from(Pids::MAX), f64::from(Pids::MAX) + 1.0],
        );
        numbers(
            "options.maxOutputSize",
            &[0.0, 1.0, 16_777_216.0, 16_777_217.0],
        );
        numbers("options.cpuLimit", &[0.0, 0.01, 0.5, 1024.0, 1025.0, -1.0]);
        texts("sessionId", &["", "a", "a-1._Z", "a b", "ü", "a/b", "a\n"]);
        program("sessionId", json!("x".repeat(46)));
        program("sessionId", json!("x".repeat(47)));
        texts(
            "request.fileExtension",
            &[
                "",
                ".",
                "mjs",
                ".mjs",
                "..mjs",
                "MJS",
                "12345678",
                "123456789",
            ],
        );
        texts(
            "options.memoryLimit",
            &[
                "512m", "1gib", "7MB", "8388608", "m", "", "0", "512q", "i", "-1",
            ],
        );
        texts("options.tmpSize", &["1", "1b", "00", "1kk", "5 5"]);
        for path in [
            "a",
            "a/b",
            "./a",
            ".",
            "a..b",
            "..a",
            "a/..b",
            "...",
            "/sandbox",
            "/tmp/",
            "//tmp/a",
            "/./sandbox/a",
            "/.//tmp",
            "",
            "/",
            "..",
            "a/..",
            "../a",
            "a/../b",
            "/sandbox/../etc",
            "/etc",
            "/sandboxes",
            "/tmpx/a",
            "a\0",
            "/..",
            "/./",
            "ü\n..",
        ] {
            program("request.outputPaths", json!([path]));
            program("request.files", json!({path: ""}));
        }
        for text in [
            "", "YQ==", "YWI=", "YWJj", "YQ", "YR==", "YWJ=", "!", "YWJjYQ==",
        ] {
            program("request.files", json!({"a": {"base64": text}}));
        }
        for name in ["A", "_a1", "", "1A", "A=B", "A B", "Ü"] {
            program("request.env", json!({name: "x"}));
            program("options.secrets", json!({name: "long enough to be one"}));
        }
        program("options", json!([]));
        program("options", json!({"networkFilter": []}));
        program("request.files", json!({"a": ["YQ=="]}));
        program("other", json!(1));
    }
}
