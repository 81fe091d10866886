//! A page of documentation as something to be done: its commands, what they are
//! said to print, and the files that it shows.

/// A command and what comes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Where it stands on the page.
    pub(super) line: usize,
    pub(super) command: String,
    pub(super) shown: Vec<String>,
}

/// What is on a page, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// Of its `console` blocks: lines that begin with `$ `, with the lines that
    /// continue them (`> ` or a backslash before), and what is shown below.
    pub(super) steps: Vec<Step>,
    /// Of its `json` blocks: parts of the configuration.
    pub(super) configs: Vec<String>,
    /// Blocks that begin with a comment of nothing but a name: `# talk.py`.
    pub(super) files: Vec<(String, String)>,
}

impl Page {
    /// Reads the parts of a page below those headings that `wanted` says.
    pub(super) fn read(text: &str, wanted: impl Fn(&str) -> bool) -> Self {
        let mut page = Self::default();
        let mut lines = text.lines().enumerate();
        let mut is_wanted = false;
        while let Some((_, line)) = lines.next() {
            if line.starts_with('#') {
                is_wanted = wanted(line.trim_start_matches('#').trim());
            }
            let Some(kind) = line.strip_prefix("```") else {
                continue;
            };
            let body = lines.by_ref().take_while(|(_, line)| *line != "```");
            let body: Vec<_> = body.map(|(index, line)| (index + 1, line)).collect();
            match kind {
                _ if !is_wanted => {}
                "console" => page.console(&body),
                "json" => page.configs.push(text_of(&body)),
                _ => page.file(&body),
            }
        }
        page
    }

    fn console(&mut self, body: &[(usize, &str)]) {
        let mut goes_on = false;
        for &(line, text) in body {
            let more = text.strip_prefix("> ");
            let last = self.steps.last_mut();
            let last = last.filter(|step| goes_on || (more.is_some() && step.shown.is_empty()));
            if let Some(step) = last {
                step.command.push('\n');
                step.command.push_str(more.unwrap_or(text));
                goes_on = text.ends_with('\\');
            } else if let Some(command) = text.strip_prefix("$ ") {
                goes_on = command.ends_with('\\');
                self.steps.push(Step {
                    line,
                    command: command.to_owned(),
                    shown: Vec::new(),
                });
            } else {
                let step = self.steps.last_mut();
                let step = step.unwrap_or_else(|| panic!("line {line}: output of no command"));
                step.shown.push(text.to_owned());
            }
        }
    }

    fn file(&mut self, body: &[(usize, &str)]) {
        let name = body.first().and_then(|(_, line)| line.strip_prefix("# "));
        if let Some(name) = name
            && name.contains('.')
            && !name.contains([' ', '/'])
        {
            self.files.push((name.to_owned(), text_of(body)));
        }
    }
}

fn text_of(body: &[(usize, &str)]) -> String {
    body.iter().flat_map(|&(_, line)| [line, "\n"]).collect()
}

/// Whether `shown` is what came: a `…` in a line stands for anything in it, and
/// one that is a line of its own for any lines.
pub(super) fn tells(shown: &[String], came: &[&str]) -> bool {
    match shown {
        [] => came.is_empty(),
        [any, rest @ ..] if any == "…" => (0..=came.len()).any(|from| tells(rest, &came[from..])),
        [first, rest @ ..] => came
            .split_first()
            .is_some_and(|(line, after)| fits(first, line) && tells(rest, after)),
    }
}

fn fits(pattern: &str, line: &str) -> bool {
    let Some((before, after)) = pattern.split_once('…') else {
        return pattern == line;
    };
    let Some(rest) = line.strip_prefix(before) else {
        return false;
    };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| fits(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let text = "# A\n```console\n$ one \\\n  two\n> end\nsaid\n\nmore\n$ three\n```\n```json\n{}\n```\n\
                    ```python\n# a.py\n1\n```\n```nginx\n# any words\n```\n## B\n```console\n$ x\n```\n";
        let page = Page::read(text, |heading| heading == "A");
        let step = |line, command: &str, shown: &[&str]| Step {
            line,
            command: command.to_owned(),
            shown: shown.iter().map(|&line| line.to_owned()).collect(),
        };
        let steps = vec![
            step(3, "one \\\n  two\nend", &["said", "", "more"]),
            step(9, "three", &[]),
        ];
        assert_eq!(page.steps, steps);
        assert_eq!(page.configs, ["{}\n"]);
        assert_eq!(page.files, [("a.py".to_owned(), "# a.py\n1\n".to_owned())]);
    }

    #[test]
    fn dots_stand_for_anything_and_nothing_else_does() {
        let tells = |shown: &str, came: &str| {
            let shown: Vec<_> = shown.lines().map(str::to_owned).collect();
            super::tells(&shown, &came.lines().collect::<Vec<_>>())
        };
        assert!(tells("a…c", "abc") && tells("a…", "a") && tells("…b…", "abc"));
        assert!(tells("…\nz", "x\ny\nz") && tells("…", "") && tells("a\n…", "a"));
        assert!(!tells("a…c", "abd") && !tells("a", "a\nb") && !tells("a\nb", "a"));
        assert!(!tells("a…c", "a\nc") && !tells("…\nz", "z\ny") && !tells("", "a"));
    }
}
