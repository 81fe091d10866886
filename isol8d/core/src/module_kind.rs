//! Which module system a piece of JavaScript is written for.
//!
//! Code that came without a file has no extension to say it. Node from 22 on
//! tries both by itself; older ones take `.js` for CommonJS and fail at the
//! first `import`.

/// The extension that inline node code gets: `mjs` when its source can only be
/// a module (a static `import` or `export`, `import.meta`, or an `await` outside
/// of functions), else `js`.
///
/// It reads tokens, not grammar: comments, strings, templates and regular
/// expressions are passed over. Where it is in doubt the answer is `js`, with
/// which node from 22 on still finds out by itself.
#[must_use]
pub fn node_extension(code: &str) -> &'static str {
    let mut evidence = Evidence::default();
    let mut tokens = Tokens::new(code);
    while let Some(token) = tokens.next() {
        if let Token::Word(word) = token {
            evidence.add(word, &tokens);
        }
    }
    if evidence.module || (evidence.awaits && !evidence.script) {
        "mjs"
    } else {
        "js"
    }
}

#[derive(Debug, Default)]
struct Evidence {
    /// Something that only a module may hold.
    module: bool,
    /// `await` outside of braces: of a module, or of an arrow function without.
    awaits: bool,
    /// A name that only CommonJS gives.
    script: bool,
}

impl Evidence {
    fn add(&mut self, word: &str, tokens: &Tokens<'_>) {
        let next = tokens.peek();
        let member = tokens.before_word == Some('.');
        match word {
            _ if member => {}
            "import" => match next {
                Some('.') => self.module = true,
                Some(c) if tokens.depth == 0 => {
                    self.module |= "'\"{*".contains(c) || is_word(c);
                }
                _ => {}
            },
            "export" if tokens.depth == 0 => {
                self.module |= next.is_some_and(|c| "{*".contains(c) || is_word(c));
            }
            "await" if tokens.depth == 0 => {
                self.awaits |= next.is_some_and(|c| "'\"`([{".contains(c) || is_word(c));
            }
            "require" => self.script |= next == Some('('),
            "module" | "exports" | "__dirname" | "__filename" => {
                self.script |= next != Some(':');
            }
            _ => {}
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(char),
    /// A string, template or regular expression.
    Literal,
}

/// The tokens of a source, coarsely.
#[derive(Debug)]
struct Tokens<'a> {
    rest: &'a str,
    /// How many brackets of any kind are open.
    depth: usize,
    /// The depth at which each open `${` of a template began.
    templates: Vec<usize>,
    last: Option<Token<'a>>,
    /// The sign in front of the word that came last, if it was one.
    before_word: Option<char>,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

impl<'a> Tokens<'a> {
    fn new(code: &'a str) -> Self {
        let rest = match code.strip_prefix("#!") {
            Some(line) => line.split_once('\n').map_or("", |(_, rest)| rest),
            None => code,
        };
        Self {
            rest,
            depth: 0,
            templates: Vec::new(),
            last: None,
            before_word: None,
        }
    }

    /// The first character of what comes next.
    fn peek(&self) -> Option<char> {
        without_gap(self.rest).chars().next()
    }

    fn next(&mut self) -> Option<Token<'a>> {
        self.rest = without_gap(self.rest);
        let first = self.rest.chars().next()?;
        let token = if is_word(first) {
            let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
            self.before_word = match self.last {
                Some(Token::Sign(sign)) => Some(sign),
                _ => None,
            };
            Token::Word(self.skip(end))
        } else if first == '"' || first == '\'' {
            self.pass_quoted(first, &['\n']);
            Token::Literal
        } else if first == '`' {
            self.skip(1);
            self.pass_template();
            Token::Literal
        } else if first == '/' && self.begins_regex() {
            self.pass_regex();
            Token::Literal
        } else {
            self.skip(first.len_utf8());
            self.bracket(first)
        };
        self.last = Some(token);
        Some(token)
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        skipped
    }

    fn bracket(&mut self, sign: char) -> Token<'a> {
        match sign {
            '(' | '[' | '{' => self.depth += 1,
            '}' if self.templates.last() == Some(&self.depth) => {
                self.templates.pop();
                self.depth -= 1;
                self.pass_template();
                return Token::Literal;
            }
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        Token::Sign(sign)
    }

    /// Up to the closing quote, or to one of `ends`, which a mistake in the
    /// source reaches first.
    fn pass_quoted(&mut self, quote: char, ends: &[char]) {
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                chars.next();
            } else if c == quote || ends.contains(&c) {
                self.skip(at + c.len_utf8());
                return;
            }
        }
        self.rest = "";
    }

    /// Up to the end of a template, or into its next `${`.
    fn pass_template(&mut self) {
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                chars.next();
            } else if c == '`' {
                self.skip(at + 1);
                return;
            } else if self.rest[at..].starts_with("${") {
                self.skip(at + 2);
                self.depth += 1;
                self.templates.push(self.depth);
                return;
            }
        }
        self.rest = "";
    }

    /// A slash divides behind a value and begins a regular expression elsewhere.
    fn begins_regex(&self) -> bool {
        match self.last {
            None => true,
            Some(Token::Literal) => false,
            Some(Token::Sign(sign)) => !")]}".contains(sign),
            Some(Token::Word(word)) => {
                const IN_FRONT: [&str; 10] = [
                    "return", "typeof", "case", "in", "of", "delete", "void", "throw", "await",
                    "else",
                ];
                IN_FRONT.contains(&word)
            }
        }
    }

    fn pass_regex(&mut self) {
        let mut chars = self.rest.char_indices().skip(1);
        let mut in_class = false;
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => {
                    chars.next();
                }
                '[' => in_class = true,
                ']' => in_class = false,
                '/' if !in_class => {
                    self.skip(at + 1);
                    return;
                }
                '\n' => {
                    self.skip(at);
                    return;
                }
                _ => {}
            }
        }
        self.rest = "";
    }
}

/// The source behind blanks and comments.
fn without_gap(mut rest: &str) -> &str {
    loop {
        rest = rest.trim_start();
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, rest)| rest);
        } else {
            return rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(expected: &str, sources: &[&str]) {
        for source in sources {
            assert_eq!(node_extension(source), expected, "{source}");
        }
    }

    #[test]
    fn modules_are_known_by_what_only_they_hold() {
        check(
            "mjs",
            &[
                "import fs from 'fs'; console.log(fs)",
                "import 'fs'",
                "import{a}from'./a.js'",
                "import * as path from \"path\"",
                "console.log(1)\nimport os from 'os'",
                "/* c */ // d\nimport os from 'os'",
                "#!/usr/bin/env node\nimport os from 'os'",
                "export default 1",
                "export const a = 1",
                "export { a }; const a = 1",
                "console.log(import.meta.url)",
                "function f() { return import.meta }",
                "await fetch('x')",
                "const x = await Promise.all([])",
                "for await (const x of y) console.log(x)",
                "const a = `t ${`u ${1}`} import` / 2; import b from 'b'",
                "const r = /[/'\"]/; import b from 'b'",
                "const half = (1) / 2; import b from 'b' // '",
            ],
        );
    }

    #[test]
    fn everything_else_is_left_to_node() {
        check(
            "js",
            &[
                "",
                "console.log(1)",
                "const fs = require('fs')",
                "import('fs').then(console.log)",
                "const s = \"import fs from 'fs'\"",
                "const s = `\nimport fs from 'fs'\n`",
                "// import fs from 'fs'",
                "/* export default 1 */ console.log(2)",
                "const re = /import x from/; ",
                "module.exports = 1",
                "exports.a = 1",
                "x.import('y'); x.export = 1; x.await",
                "async function f() { await 1 } f()",
                "(async () => { await 1 })()",
                "const fs = require('fs'); const f = async () => await fs",
                "const o = { import: 1, export: 2 }",
                "`${await_}`",
            ],
        );
    }

    proptest! {
        #[test]
        fn no_source_is_too_odd(source in ".*") {
            prop_assert!(["js", "mjs"].contains(&node_extension(&source)));
        }

        #[test]
        fn no_order_of_signs_is_too_odd(source in "[`${}()\\[\\]/'\"\\\\\n*a ]*") {
            prop_assert!(["js", "mjs"].contains(&node_extension(&source)));
        }

        #[test]
        fn what_is_quoted_decides_nothing(text in "[a-z {}$\\n]*") {
            let quoted = format!("const s = {text:?}; require('x')");
            prop_assert_eq!(node_extension(&quoted), "js");
        }
    }
}
