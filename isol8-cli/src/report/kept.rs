//! What we say of a sandbox that `--persist` has kept.

use crate::console::Console;

/// What was asked for, where that makes a difference to what is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) persist: bool,
    pub(crate) session: bool,
    /// The sandbox is on another machine.
    pub(crate) remote: bool,
}

/// What is said of the sandbox after the run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// How to look into it.
    Is(String),
    /// It was asked for in vain.
    IsNot,
}

/// A session is kept when it is removed, not now.
pub(super) fn kept(id: &str, asked: Asked) -> Option<Kept> {
    match id {
        "" => (asked.persist && !asked.session).then_some(Kept::IsNot),
        id if asked.remote => Some(Kept::Is(format!(
            "sandbox `{id}` is kept on the server; `isol8 cleanup` there removes it"
        ))),
        id => Some(Kept::Is(how_to_look(id))),
    }
}

impl Kept {
    pub(super) fn tell(&self, console: &Console) {
        match self {
            Self::Is(how) => console.note(how),
            Self::IsNot => {
                console.warning("the sandbox was not kept: it did not outlive the run");
            }
        }
    }
}

/// The first command gives it the name that the others go by.
pub(crate) fn how_to_look(id: &str) -> String {
    let commands = [
        (
            format!("isol8 session adopt {id} NAME"),
            "makes it a session; then",
        ),
        (
            "isol8 session ls NAME:/sandbox".to_owned(),
            "lists its files, and",
        ),
        (
            "isol8 run --session NAME …".to_owned(),
            "runs a program in it",
        ),
        ("isol8 cleanup".to_owned(), "removes it"),
    ];
    let width = commands.iter().map(|(command, _)| command.chars().count());
    let width = width.max().unwrap_or_default();
    let lines = commands.map(|(command, what)| format!("{command:width$}  {what}"));
    format!("sandbox `{id}` is kept\n{}", lines.join("\n"))
}
