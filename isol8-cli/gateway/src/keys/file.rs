//! Keys from a file: JSON that nobody but its owner can read.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    str::FromStr as _,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use isol8_core::{
    config,
    failure::{Failure, FailureKind},
};
use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::{Digest, Key, KeyName, digest_of, owner_of};

/// Some thousand keys.
const MAX_BYTES: u64 = 1 << 20;
/// A shorter one might be guessed.
const MIN_KEY_CHARS: usize = 16;
/// Longer ones do not fit into the head of a request beside others.
const MAX_KEY_CHARS: usize = 1024;

/// Group and others can neither read nor write.
const PRIVATE: u32 = 0o066;
/// As systemd puts credentials there: a group may read them.
const CREDENTIAL: u32 = 0o026;

/// Reads the keys in this file. `credentials` is the folder in which systemd puts
/// what a unit may read.
///
/// # Errors
/// It cannot be read, others can read it, or it says something wrong; the message
/// names the entry and the field.
pub(super) fn read(path: &Path, credentials: Option<&Path>) -> Result<Vec<Key>, Failure> {
    let failed = |kind| {
        let shown = path.display();
        Failure::new(kind, format!("cannot use the keys file `{shown}`"))
    };
    // A pipe in its place would let us wait for ever.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag of `open`");
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut file = opened.map_err(|error| {
        let failure = failed(FailureKind::InvalidRequest).because(&error);
        failure.hint("`--keys-file` takes the path of a JSON file with keys")
    })?;
    let is_credential = credentials.is_some_and(|folder| path.parent() == Some(folder));
    check(&file, is_credential).map_err(|(why, hint)| {
        let failure = failed(FailureKind::Forbidden).cause(why);
        let shown = path.display();
        failure.hint(hint.replace("FILE", &shown.to_string()))
    })?;
    let mut text = String::new();
    let read = (&mut file).take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| failed(FailureKind::InvalidRequest).because(&error))?;
    if text.len() as u64 > MAX_BYTES {
        let why = format!("it has more than {MAX_BYTES} bytes");
        return Err(failed(FailureKind::InvalidRequest).cause(why));
    }
    parse(&text).map_err(|wrong| {
        failed(FailureKind::InvalidRequest).cause(wrong).hint(
            "it is written like `{\"keys\":[{\"name\":\"ci\",\"sha256\":\"<hex digits>\"}]}`; \
             `isol8 key add` needs no file",
        )
    })
}

/// What is wrong with the file itself, and what to do about it.
fn check(file: &File, is_credential: bool) -> Result<(), (String, &'static str)> {
    let found = file
        .metadata()
        .map_err(|error| (error.to_string(), "check the file FILE"))?;
    if !found.is_file() {
        let why = "it is no regular file".to_owned();
        return Err((why, "`--keys-file` takes the path of a JSON file with keys"));
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us && found.uid() != 0 {
        let why = format!(
            "it belongs to the user {}, who could change it",
            found.uid()
        );
        return Err((why, "take it over with `chown $(id -u) FILE`"));
    }
    let forbidden = if is_credential { CREDENTIAL } else { PRIVATE };
    if found.mode() & forbidden != 0 {
        let mode = found.mode() & 0o7777;
        let why = format!("its mode is {mode:04o}: others can read or write it");
        return Err((why, "close it with `chmod 600 FILE`"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(deserialize_with = "name")]
    name: KeyName,
    #[serde(default, deserialize_with = "key")]
    key: Option<Digest>,
    #[serde(default, deserialize_with = "sha256")]
    sha256: Option<Digest>,
    #[serde(default)]
    admin: bool,
    #[serde(default, deserialize_with = "expires")]
    expires: Option<Timestamp>,
    #[serde(default)]
    policy: config::Policy,
}

/// The keys of the text, or what is wrong with it.
fn parse(text: &str) -> Result<Vec<Key>, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let listed: Listed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let path = path.trim_end_matches('?').trim_end_matches('.').to_owned();
        place(&path, error.inner())
    })?;
    json.end().map_err(|error| place("", &error))?;
    let mut keys: Vec<Key> = Vec::new();
    for (index, entry) in listed.keys.into_iter().enumerate() {
        let key = entry
            .key()
            .map_err(|why| format!("`keys[{index}]`: {why}"))?;
        if keys.iter().any(|other| other.name == key.name) {
            let name = &key.name;
            return Err(format!("`keys[{index}].name`: there is another `{name}`"));
        }
        if let Some(other) = keys.iter().find(|other| other.digest == key.digest) {
            let other = &other.name;
            return Err(format!("`keys[{index}]`: its key is that of `{other}` too"));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn place(path: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let at = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&at).unwrap_or(&message);
    let line = error.line().max(1);
    match path {
        "" => format!("line {line}: {message}"),
        path => format!("line {line}: `{path}`: {message}"),
    }
}

impl Entry {
    fn key(self) -> Result<Key, &'static str> {
        let digest = match (self.key, self.sha256) {
            (Some(digest), None) | (None, Some(digest)) => digest,
            (Some(_), Some(_)) => return Err("give `key` or `sha256`, not both"),
            (None, None) => return Err("`key` or `sha256` is missing"),
        };
        // Who writes the file says whose the sessions are: a new text under the
        // same name is the same key.
        let owner = owner_of(b"isol8 session owner of a name\0", self.name.as_str());
        let key = Key::of_digest(self.name.to_string(), digest, owner);
        Ok(Key {
            is_admin: self.admin,
            expires: self.expires,
            ..key.with_policy(self.policy)
        })
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyName, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// No message may hold what stands there.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        _ => Err(D::Error::custom("it is no text")),
    }
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
    let text = secret(deserializer)?;
    if text.len() < MIN_KEY_CHARS {
        let why = format!("a key has at least {MIN_KEY_CHARS} characters");
        return Err(D::Error::custom(why));
    }
    if text.len() > MAX_KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = format!(
            "a key has letters, digits and signs of ASCII without blanks, at most {MAX_KEY_CHARS}"
        );
        return Err(D::Error::custom(why));
    }
    Ok(Some(digest_of(&text)))
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
    let text = secret(deserializer)?;
    let digest = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let digest = digest.and_then(|digest| Digest::try_from(digest).ok());
    let wrong = || D::Error::custom("a SHA-256 digest has 64 hex digits");
    digest.map(Some).ok_or_else(wrong)
}

fn expires<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |_| {
        let shown = text.escape_debug();
        D::Error::custom(format!("`{shown}` is no time such as 2027-01-01T00:00:00Z"))
    };
    Timestamp::from_str(&text).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const TEXT: &str = "0123456789abcdef";

    fn entry(fields: &str) -> String {
        format!(r#"{{"keys":[{{{fields}}}]}}"#)
    }

    #[test]
    fn a_file_has_keys_as_texts_or_digests() {
        let digest = data_encoding::HEXUPPER.encode(&digest_of("the text of another"));
        let text = format!(
            r#"{{"keys":[{{"name":"ci","key":"{TEXT}","admin":true,
            "expires":"2027-01-01T00:00:00Z","policy":{{"maxMemory":"64m"}}}},
            {{"name":"b","sha256":"{digest}"}}]}}"#
        );
        let keys = parse(&text).expect("it is right");
        let [ci, b] = &keys[..] else {
            panic!("two keys: {keys:?}")
        };
        assert_eq!((ci.name.as_str(), b.name.as_str()), ("ci", "b"));
        assert_eq!(ci.digest, digest_of(TEXT));
        assert_eq!(b.digest, digest_of("the text of another"));
        assert!(ci.is_admin && !b.is_admin);
        assert_eq!(
            ci.expires.expect("it expires").to_string(),
            "2027-01-01T00:00:00Z"
        );
        assert!(ci.policy.max_memory.is_some() && b.policy == config::Policy::default());
        assert_ne!(ci.owner, b.owner);
        assert_ne!(ci.owner, Key::new("ci", TEXT, true).owner);
        assert!(parse(r#"{"keys":[]}"#).expect("it is right").is_empty());
    }

    #[test]
    fn a_new_text_under_the_same_name_has_the_same_sessions() {
        let owner = |key: &str| {
            let text = entry(&format!(r#""name":"ci","key":"{key}""#));
            parse(&text).expect("it is right")[0].owner.clone()
        };
        assert_eq!(
            owner(TEXT),
            owner("another text of the key".replace(' ', "-").as_str())
        );
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_told() {
        let key = format!(r#""key":"{TEXT}""#);
        let one = format!(r#""name":"a",{key}"#);
        let table = [
            (String::new(), "line 1: EOF"),
            ("[]".into(), "invalid length"),
            ("{}".into(), "missing field `keys`"),
            (r#"{"keys":[],"x":1}"#.into(), "`x`: unknown field"),
            (format!(r#"{{"keys":[{{{one}}}]}} x"#), "trailing"),
            (entry(&key), "`keys[0]`: missing field `name`"),
            (
                entry(r#""name":"a""#),
                "`keys[0]`: `key` or `sha256` is missing",
            ),
            (
                entry(&format!(r#"{one},"x":1"#)),
                "`keys[0].x`: unknown field",
            ),
            (
                entry(&format!(r#""name":"a b",{key}"#)),
                "`keys[0].name`: `a b` is no name",
            ),
            (
                entry(r#""name":"a","key":"0123456789abcde""#),
                "`keys[0].key`: a key has at least 16",
            ),
            (
                entry(r#""name":"a","key":"0123456789 abcdef""#),
                "without blanks",
            ),
            (
                entry(r#""name":"a","key":"0123456789äabcdef""#),
                "without blanks",
            ),
            (
                entry(r#""name":"a","key":1234567890123456"#),
                "`keys[0].key`: it is no text",
            ),
            (
                entry(r#""name":"a","sha256":"0123456789abcdef""#),
                "`keys[0].sha256`: a SHA-256",
            ),
            (
                entry(&format!(r#"{one},"sha256":"{}""#, "0".repeat(64))),
                "`keys[0]`: give `key` or `sha256`",
            ),
            (
                entry(&format!(r#"{one},"expires":"tomorrow""#)),
                "`keys[0].expires`: `tomorrow`",
            ),
            (
                entry(&format!(r#"{one},"expires":"2027-01-01""#)),
                "`keys[0].expires`",
            ),
            (
                entry(&format!(r#"{one},"admin":1"#)),
                "`keys[0].admin`: invalid type",
            ),
            (
                entry(&format!(r#"{one},"policy":{{"maxCpu":"x"}}"#)),
                "`keys[0].policy.maxCpu`",
            ),
            (
                entry(&format!(r#"{one},"policy":{{"x":1}}"#)),
                "`keys[0].policy.x`",
            ),
            (
                format!(r#"{{"keys":[{{{one}}},{{"name":"a","key":"another-{TEXT}"}}]}}"#),
                "`keys[1].name`: there is another `a`",
            ),
            (
                format!(r#"{{"keys":[{{{one}}},{{"name":"b",{key}}}]}}"#),
                "`keys[1]`: its key is that of `a` too",
            ),
        ];
        for (text, expected) in table {
            let said = parse(&text).expect_err(&text);
            assert!(said.contains(expected), "{text}: {said}");
            assert!(!said.contains("123456789"), "{said}");
        }
    }

    #[test]
    fn only_a_file_of_our_own_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        fs::write(&path, entry(&format!(r#""name":"a","key":"{TEXT}""#))).expect("it is ours");
        let read_with = |mode, credentials| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            read(&path, credentials).map(|keys| keys.len())
        };
        for mode in [0o600, 0o400, 0o711] {
            assert_eq!(read_with(mode, None), Ok(1), "{mode:o}");
        }
        for mode in [0o640, 0o620, 0o604, 0o602, 0o644, 0o666] {
            let failure = read_with(mode, None).expect_err("it is open");
            assert_eq!(failure.kind, FailureKind::Forbidden);
            assert!(
                failure.to_string().contains(&format!("{mode:04o}")),
                "{failure}"
            );
            assert!(
                failure
                    .hint
                    .is_some_and(|hint| hint.contains("chmod 600 /"))
            );
        }
        let here = Some(folder.path());
        for mode in [0o600, 0o440, 0o640] {
            assert_eq!(read_with(mode, here), Ok(1), "{mode:o}");
        }
        for mode in [0o460, 0o444, 0o602] {
            assert!(read_with(mode, here).is_err(), "{mode:o}");
        }
        let other = folder.path().join("other");
        assert!(read_with(0o440, Some(&other)).is_err());
        assert!(read(folder.path(), None).is_err(), "a folder");
        let failure = read(&other, None).expect_err("there is none");
        assert!(failure.to_string().contains("No such file"), "{failure}");
    }

    #[test]
    fn what_is_no_file_or_too_much_of_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe");
        let failure = read(&pipe, None).expect_err("a pipe");
        assert!(failure.to_string().contains("no regular file"), "{failure}");
        let large = folder.path().join("large");
        let blanks = vec![b' '; usize::try_from(MAX_BYTES).expect("small") + 1];
        fs::write(&large, blanks).expect("it is ours");
        fs::set_permissions(&large, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let failure = read(&large, None).expect_err("too large");
        assert!(failure.to_string().contains("more than"), "{failure}");
    }
}
