use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn allows(pattern: &str, text: &str) -> bool {
    AllowPattern::parse(pattern).unwrap().matches(&host(text))
}

fn denies(pattern: &str, text: &str) -> bool {
    DenyPattern::parse(pattern).unwrap().matches(&host(text))
}

#[test]
fn an_allow_pattern_matches_the_whole_name() {
    for (pattern, text, expected) in [
        ("example\\.com", "example.com", true),
        ("^example\\.com$", "example.com", true),
        ("example\\.com", "example.com.evil.net", false),
        ("example\\.com", "evil-example.com", false),
        ("example\\.com", "api.example.com", false),
        ("example.com", "examplexcom", true),
        (".*\\.example\\.com", "a.b.example.com", true),
        (".*\\.example\\.com", "example.com", false),
        (".*\\.example\\.com", "a.example.com.evil.net", false),
        // The longer branch counts although the shorter one comes first.
        ("example|example\\.com", "example.com", true),
        ("a|b", "ab", false),
        ("^a|b$", "ac", false),
        ("^a|b$", "cb", false),
        ("^a|b$", "a", true),
        ("(?:a|ab)(?:c|bcd)?", "abcd", true),
        ("a*?", "aaa", true),
        ("Example\\.COM", "example.com", true),
        ("(?i)EXAMPLE\\.com", "example.com", true),
        ("\\w+\\.example", "abc.example", true),
        ("[^.]+\\.example", "abc.example", true),
        ("[^.]+\\.example", "a.b.example", false),
        ("127\\.0\\.0\\.1", "0x7f.1", true),
        ("::1", "[0:0::1]", true),
        ("10\\..*", "10.1.2.3", true),
    ] {
        assert_eq!(allows(pattern, text), expected, "{pattern} on {text}");
    }
}

#[test]
fn no_pattern_gets_out_of_its_anchors() {
    for pattern in [
        "example\\.com#",
        "(?x)example\\.com #",
        "(?x)example\\.com # comment",
        "(?x)example\\.com # )",
        "(?x: example\\.com ) # \n",
        "(?m)^example\\.com$",
        "(?m:^example\\.com$)",
        "(?s)example\\.com",
        "(?-u)example\\.com",
        "(?U)example\\.com",
        "(?R)example\\.com$",
        "example\\.com|",
        "|example\\.com",
        "^|example\\.com",
        "$|example\\.com",
        "(?m)$|^",
        "\\b|example\\.com",
        "\\B",
        "(?:)",
        "x*",
        "\\A|\\z",
        "\\Aexample\\.com",
        "example\\.com\\z",
        "(example\\.com)?",
        "example\\.com(?:)",
        "a{0}",
    ] {
        for text in [
            "example.com.evil.net",
            "evil.net",
            "evil-example.com",
            "a.example.com",
        ] {
            assert!(!allows(pattern, text), "{pattern:?} opened {text}");
        }
    }
    // What does not stand alone as an expression is none.
    for pattern in [
        "a)|(b",
        "a)(?:b",
        ")|.*|(",
        "a)\\z|(?:b",
        "(?x)(a # )",
        "a\\",
        "[a",
    ] {
        assert!(AllowPattern::parse(pattern).is_err(), "{pattern:?}");
    }
}

#[test]
fn a_deny_pattern_matches_anywhere() {
    for (pattern, text, expected) in [
        ("example", "www.example.com", true),
        ("EVIL", "not-evil.net", true),
        ("^example\\.com$", "www.example.com", false),
        ("^169\\.254\\.", "0xa9fea9fe", true),
        ("(?:)", "anything.at.all", true),
        ("x|", "anything.at.all", true),
        ("\\.internal$", "a.internal", true),
        ("\\.internal$", "a.internal.", true),
        ("\\.internal$", "a.internal.example", false),
        ("xn--", "bücher.example", true),
        ("fe80", "[FE80::1]", true),
    ] {
        assert_eq!(denies(pattern, text), expected, "{pattern} on {text}");
    }
}

fn check_error(pattern: &str, expected: Expect) {
    let allow = AllowPattern::parse(pattern).unwrap_err();
    assert_eq!(DenyPattern::parse(pattern).unwrap_err(), allow);
    expected.assert_eq(&format!("{allow}\n"));
}

#[test]
fn errors_show_the_place() {
    check_error(
        "",
        expect![[r#"
        a pattern must not be empty
    "#]],
    );
    check_error(
        "(",
        expect![[r#"
        unclosed group
            (
            ^
    "#]],
    );
    check_error(
        "*.example.com",
        expect![[r#"
        repetition operator missing expression
            *.example.com
            ^
    "#]],
    );
    check_error(
        "example[",
        expect![[r#"
        unclosed character class
            example[
                   ^
    "#]],
    );
    check_error(
        "a(?=b)",
        expect![[r#"
        look-around, including look-ahead and look-behind, is not supported
            a(?=b)
             ^^^
    "#]],
    );
    check_error(
        r"(a)\1",
        expect![[r#"
        backreferences are not supported
            (a)\1
               ^^
    "#]],
    );
    check_error(
        "a\n(b",
        expect![[r#"
        unclosed group
            a�(b
              ^
    "#]],
    );
    check_error(
        "bücher\\.example",
        expect![[r#"
        hosts are matched in their ASCII form (`xn--…`), which has no `ü`
            bücher\.example
             ^
    "#]],
    );
    check_error(
        r"\pL+\.example",
        expect![[r#"
        hosts are matched in their ASCII form; `\p` says nothing about it
            \pL+\.example
            ^^
    "#]],
    );
    check_error(
        "(?:a{1000}){1000}",
        expect![[r#"
        the pattern is too large once it is compiled; use fewer or smaller repetitions
    "#]],
    );
    let long = format!("{}({}", "a".repeat(100), "b".repeat(100));
    check_error(
        &long,
        expect![[r#"
        unclosed group
            aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa(bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
                                                    ^
    "#]],
    );
    assert_eq!(
        AllowPattern::parse(&long)
            .unwrap_err()
            .place()
            .unwrap()
            .column,
        100
    );
}

#[test]
fn sizes_have_limits() {
    assert!(AllowPattern::parse(&"a".repeat(LONGEST_PATTERN)).is_ok());
    let longer = AllowPattern::parse(&"a".repeat(LONGEST_PATTERN + 1)).unwrap_err();
    assert_eq!(longer, PatternError::TooLong(LONGEST_PATTERN + 1));
    assert!(AllowPattern::parse(&"a".repeat(1 << 20)).is_err());
    assert!(AllowPattern::parse("(?:[a-z0-9-]{1,63}\\.){1,7}example\\.com").is_ok());
    let deep = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    assert!(AllowPattern::parse(&deep(50)).is_ok());
    assert!(AllowPattern::parse(&deep(1000)).is_err());
}

#[test]
fn a_bare_dot_in_a_host_name_gets_a_line() {
    for (pattern, better) in [
        ("example.com", "example\\.com"),
        ("^example.com$", "^example\\.com$"),
        ("^api.example\\.com", "^api\\.example\\.com"),
        (".example.com", "\\.example\\.com"),
        (".*.example.com", ".*\\.example\\.com"),
        (".*\\.example.com$", ".*\\.example\\.com$"),
        ("10.0.0.1", "10\\.0\\.0\\.1"),
    ] {
        let warning = dot_warning(pattern).unwrap_or_else(|| panic!("{pattern}"));
        assert!(
            warning.ends_with(&format!("for a dot write `{better}`")),
            "{warning}"
        );
        assert!(!warning.contains('\n'));
        assert_eq!(dot_warning(better), None);
    }
    for pattern in [
        "^api\\.example\\.com$",
        ".*\\.example\\.com",
        ".*",
        ".",
        "",
        "^",
        "$",
        "^$",
        "localhost",
        "(?:a|b)\\.example\\.com",
        "[a-z]+.example.com",
        "a.{3}b",
        "ü.example",
        "a\\",
    ] {
        assert_eq!(dot_warning(pattern), None, "{pattern}");
    }
}

/// Names of few letters, so that patterns of the same letters often match.
const NAME: &str = "[ab](?:\\.?[ab]){0,8}";

/// Patterns of the same letters, with everything that might bend an anchor.
fn patterns() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        "[ab]",
        Just("\\.".to_owned()),
        Just(".".to_owned()),
        Just("^".to_owned()),
        Just("$".to_owned()),
        Just("\\b".to_owned()),
        Just("[^a]".to_owned()),
        Just("(?m)".to_owned()),
        Just("(?x) # c\n".to_owned()),
        Just("(?U)".to_owned()),
    ];
    atom.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            prop::collection::vec(inner.clone(), 1..4)
                .prop_map(|parts| format!("(?:{})", parts.join("|"))),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|parts| parts.join("|")),
            inner.clone().prop_map(|one| format!("({one})*")),
            inner.prop_map(|one| format!("(?:{one})??")),
        ]
    })
}

/// What a pattern means, read another way: every match from the start, by an
/// expression that ends there, looked at for its length.
fn whole_match(pattern: &str, text: &str) -> bool {
    use regex_automata::{
        Anchored, Input, MatchKind,
        nfa::thompson::{NFA, pikevm::PikeVM},
    };
    let syntax = regex_automata::util::syntax::Config::new().case_insensitive(true);
    let nfa = NFA::compiler().syntax(syntax).build(pattern).unwrap();
    let config = PikeVM::config().match_kind(MatchKind::All);
    let vm = PikeVM::builder()
        .configure(config)
        .build_from_nfa(nfa)
        .unwrap();
    let input = Input::new(text).anchored(Anchored::Yes);
    let mut captures = vm.create_captures();
    vm.search(&mut vm.create_cache(), &input, &mut captures);
    captures
        .get_match()
        .is_some_and(|found| found.end() == text.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn an_allow_pattern_never_matches_a_part(pattern in patterns(), name in NAME) {
        if let Ok(allow) = AllowPattern::parse(&pattern) {
            let expected = whole_match(&pattern, &name);
            prop_assert_eq!(allow.matches(&host(&name)), expected, "{:?} on {}", pattern, name);
        }
    }

    #[test]
    fn a_deny_pattern_reads_as_usual(pattern in patterns(), name in NAME) {
        if let Ok(deny) = DenyPattern::parse(&pattern) {
            let usual = regex::RegexBuilder::new(&pattern).case_insensitive(true).build().unwrap();
            prop_assert_eq!(deny.matches(&host(&name)), usual.is_match(&name), "{:?} on {}", pattern, name);
        }
    }

    #[test]
    fn a_list_is_its_patterns(
        patterns in prop::collection::vec(patterns(), 0..6),
        name in NAME,
    ) {
        let allow: Vec<_> = patterns.iter().flat_map(|one| AllowPattern::parse(one)).collect();
        let deny: Vec<_> = patterns.iter().flat_map(|one| DenyPattern::parse(one)).collect();
        let allowed = allow.iter().any(|one| one.matches(&host(&name)));
        let denied = deny.iter().any(|one| one.matches(&host(&name)));
        prop_assert_eq!(PatternList::allow(allow).unwrap().matches(&name), allowed);
        prop_assert_eq!(PatternList::deny(deny).unwrap().matches(&name), denied);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,60}") {
        if let Err(error) = AllowPattern::parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
        prop_assert!(dot_warning(&text).is_none_or(|line| !line.contains('\n')));
    }
}
