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

    /// The same without this command, which may have a comment behind it.
    ///
    /// # Panics
    /// When the page has no such one: it need not be left out any more.
    #[track_caller]
    pub(super) fn without(mut self, command: &str) -> Self {
        let all = self.steps.len();
        let bare = |step: &Step| step.command.split("  ").next() == Some(command);
        self.steps.retain(|step| !bare(step));
        assert!(self.steps.len() < all, "`{command}` is not on the page");
        self
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

/// Fields of results and records that have another value each time, or on each
/// host: a page may show the one that it saw.
const VOLATILE: [&str; 8] = [
    "timestamp",
    "durationMs",
    "cpuMs",
    "peakMemoryBytes",
    "executionId",
    "sandboxId",
    "engine",
    "warm",
];

/// A line with `…` in place of ids and the values of such fields.
pub(super) fn settled(line: &str) -> String {
    let mut line = line.to_owned();
    for field in VOLATILE {
        let field = format!("\"{field}\":");
        let mut from = 0;
        while let Some(found) = line[from..].find(&field) {
            let value = from + found + field.len();
            let end = line[value..].find([',', '}']).unwrap_or(line.len() - value);
            line.replace_range(value..value + end, "…");
            from = value;
        }
    }
    let is_id = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = line.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let words = words.map(|word| {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        match is_id(bare) {
            true => word.replacen(bare, "…", 1),
            false => word.to_owned(),
        }
    });
    words.collect()
}

/// Whether `shown` is what came: a `…` in a line stands for anything in it, and
/// one that is a line of its own for any lines.
pub(super) fn tells(shown: &[String], came: &[String]) -> bool {
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
    fn what_is_never_the_same_is_set_aside() {
        let id = "0123456789abcdef0123456789abcdef";
        let text = format!("`{id}` {{\"timestamp\":\"1:2\",\"cpuMs\":1.5,\"warm\":true}} {id}0");
        let expected = format!("`…` {{\"timestamp\":…,\"cpuMs\":…,\"warm\":…}} {id}0");
        assert_eq!(settled(&text), expected);
    }

    #[test]
    fn dots_stand_for_anything_and_nothing_else_does() {
        let told = |shown: &str, came: &str| {
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            tells(&lines(shown), &lines(came))
        };
        assert!(told("a…c", "abc") && told("a…", "a") && told("…b…", "abc"));
        assert!(told("…\nz", "x\ny\nz") && told("…", "") && told("a\n…", "a"));
        assert!(!told("a…c", "abd") && !told("a", "a\nb") && !told("a\nb", "a"));
        assert!(!told("a…c", "a\nc") && !told("…\nz", "z\ny") && !told("", "a"));
    }
}
