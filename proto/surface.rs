//! Freezes the wire surface: a field that changes its number, name or type, or
//! that goes away, shows up here as a diff. Adding is free; run with
//! `UPDATE_EXPECT=1` to take in what was added, and read the diff.

use std::fmt::Write as _;

use expect_test::expect_file;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto, field_descriptor_proto::Label,
};

use prost::Message as _;

#[test]
fn the_wire_surface_is_as_published() {
    let set = FileDescriptorSet::decode(isol8_proto::DESCRIPTORS).expect("build.rs wrote it");
    let mut text = String::new();
    for file in &set.file {
        if !file.name().starts_with("isol8/") {
            continue;
        }
        writeln!(text, "{}", file.name()).expect("a String takes it");
        file.enum_type
            .iter()
            .for_each(|it| enumeration(&mut text, it));
        file.message_type
            .iter()
            .for_each(|it| message(&mut text, "", it));
        file.service.iter().for_each(|it| service(&mut text, it));
    }
    expect_file!["surface.txt"].assert_eq(&text);
}

fn enumeration(text: &mut String, it: &EnumDescriptorProto) {
    for value in &it.value {
        let _ = writeln!(
            text,
            "  enum {}.{} = {}",
            it.name(),
            value.name(),
            value.number()
        );
    }
}

fn message(text: &mut String, outer: &str, it: &DescriptorProto) {
    let name = format!("{outer}{}", it.name());
    if it.field.is_empty() {
        let _ = writeln!(text, "  message {name}");
    }
    for field in &it.field {
        let _ = writeln!(text, "  {name}.{}", described(field));
    }
    for nested in &it.nested_type {
        message(text, &format!("{name}."), nested);
    }
}

fn described(field: &FieldDescriptorProto) -> String {
    let repeated = if field.label() == Label::Repeated {
        "repeated "
    } else {
        ""
    };
    let kind = match field.type_name() {
        "" => format!("{:?}", field.r#type()).to_lowercase(),
        name => name.trim_start_matches('.').to_owned(),
    };
    format!("{} = {}: {repeated}{kind}", field.name(), field.number())
}

fn service(text: &mut String, it: &ServiceDescriptorProto) {
    for method in &it.method {
        let stream = |is: bool| if is { "stream " } else { "" };
        let _ = writeln!(
            text,
            "  rpc {}.{}({}{}) -> {}{}",
            it.name(),
            method.name(),
            stream(method.client_streaming()),
            method.input_type().trim_start_matches('.'),
            stream(method.server_streaming()),
            method.output_type().trim_start_matches('.'),
        );
    }
}
