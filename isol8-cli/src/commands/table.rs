//! Tables for people.

use comfy_table::{ContentArrangement, Table};
use isol8_core::failure::Failure;

use super::answer;
use crate::{console::printable, exit::Exit};

/// A table without lines, headed by `header`.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    // Every cell has a blank on both sides; the outer ones say nothing.
    let line = |line: String| {
        line.strip_prefix(' ')
            .unwrap_or(&line)
            .trim_end()
            .to_owned()
            + "\n"
    };
    table.lines().map(line).collect()
}

/// Prints texts, one after the other, with an empty line between them.
pub(super) fn print(parts: &[String]) -> Result<Exit, Failure> {
    answer(parts.join("\n").as_bytes())
}
