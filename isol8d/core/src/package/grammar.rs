//! What a package looks like, for each package manager.

use super::{InvalidPackage, LONGEST_PACKAGE};
use crate::{egress::host::Host, runtime::Runtime};

/// What a good package says.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) pinned: bool,
    pub(super) host: Option<Host>,
}

/// Which part is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Name,
    Version,
    Source,
}

/// What pip takes for a file, whether it is there or not.
const PYTHON_ARCHIVES: [&str; 13] = [
    ".whl",
    ".zip",
    ".tar",
    ".tgz",
    ".tbz",
    ".txz",
    ".tlz",
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.lz",
    ".tar.lzma",
    ".egg",
];

/// What npm takes for a file.
const NPM_ARCHIVES: [&str; 3] = [".tgz", ".tar.gz", ".tar"];

/// Before any grammar: what no package of the runtime can have.
pub(super) fn check_text(runtime: Runtime, text: &str) -> Result<(), InvalidPackage> {
    if text.is_empty() {
        return Err(InvalidPackage::Empty);
    }
    if text.len() > LONGEST_PACKAGE {
        return Err(InvalidPackage::TooLong(text.len()));
    }
    let signs = match runtime {
        Runtime::Python => "._-[],~=!<>+*/:@",
        Runtime::Node | Runtime::Bun => "._-~@/^<>=+*:",
        Runtime::Deno => "._-~@/^<>=+*:,?%",
        Runtime::Bash => "._-+=:~/",
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    if let Some(found) = text.chars().find(|c| !allowed(*c)) {
        let text = text.to_owned();
        return Err(InvalidPackage::Character {
            text,
            runtime,
            found,
        });
    }
    if text.starts_with('-') {
        return Err(InvalidPackage::Option(text.to_owned()));
    }
    Ok(())
}

/// PEP 508 without spaces, URLs and markers: `name[extra,…]` and versions by
/// PEP 440 with commas between.
pub(super) fn python(text: &str) -> Result<Found, Wrong> {
    if text.contains(['/', ':', '@']) || ends_with_any(text, &PYTHON_ARCHIVES) {
        return Err(Wrong::Source);
    }
    let end = text
        .find(['[', '~', '=', '!', '<', '>'])
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if ends_with_any(name, &PYTHON_ARCHIVES) {
        return Err(Wrong::Source);
    }
    if !is_python_name(name) {
        return Err(Wrong::Name);
    }
    if let Some(inner) = rest.strip_prefix('[') {
        let (extras, after) = inner.split_once(']').ok_or(Wrong::Name)?;
        if !extras.split(',').all(is_python_name) {
            return Err(Wrong::Name);
        }
        rest = after;
    }
    if rest.is_empty() {
        return Ok(Found::default());
    }
    let mut pinned = false;
    for specifier in rest.split(',') {
        pinned |= python_version(specifier)?;
    }
    Ok(Found { pinned, host: None })
}

fn is_python_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inside = |c: char| edge(c) || "._-".contains(c);
    name.starts_with(edge) && name.ends_with(edge) && name.chars().all(inside)
}

/// One specifier; whether it pins.
fn python_version(specifier: &str) -> Result<bool, Wrong> {
    let operators = ["~=", "==", "!=", "<=", ">=", "<", ">"];
    let found = operators.iter().find_map(|operator| {
        let version = specifier.strip_prefix(operator)?;
        Some((*operator, version))
    });
    let (operator, version) = found.ok_or(Wrong::Version)?;
    let equal = matches!(operator, "==" | "!=");
    let whole = if equal {
        version.strip_suffix(".*")
    } else {
        None
    };
    let plain = whole.unwrap_or(version);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+!".contains(c);
    let starts = plain.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends = plain.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !ends || !plain.chars().all(allowed) {
        return Err(Wrong::Version);
    }
    Ok(operator == "==" && whole.is_none())
}

/// `name`, `@scope/name`, each with `@version`, `@range` or `@tag`, or an alias
/// (`alias@npm:name@range`).
pub(super) fn npm(text: &str) -> Result<Found, Wrong> {
    let (name, version) = npm_split(text);
    check_npm_name(name)?;
    match version {
        Some(version) => match version.strip_prefix("npm:") {
            Some(target) => npm_target(target),
            None => npm_version(version),
        },
        None => Ok(Found::default()),
    }
}

/// A name with a version, without an alias.
fn npm_target(text: &str) -> Result<Found, Wrong> {
    let (name, version) = npm_split(text);
    check_npm_name(name)?;
    version.map_or_else(|| Ok(Found::default()), npm_version)
}

/// The `@` of a scope is not the one before a version.
fn npm_split(text: &str) -> (&str, Option<&str>) {
    let scope = usize::from(text.starts_with('@'));
    match text[scope..].find('@') {
        Some(at) => (&text[..scope + at], Some(&text[scope + at + 1..])),
        None => (text, None),
    }
}

fn check_npm_name(name: &str) -> Result<(), Wrong> {
    if ends_with_any(name, &NPM_ARCHIVES) || name.contains(':') {
        return Err(Wrong::Source);
    }
    let bare = match name.strip_prefix('@') {
        Some(scoped) => {
            let (scope, bare) = scoped.split_once('/').ok_or(Wrong::Name)?;
            if !is_npm_part(scope) {
                return Err(Wrong::Name);
            }
            bare
        }
        // `owner/repository` is a place on a host of repositories.
        None if name.contains('/') => return Err(Wrong::Source),
        None => name,
    };
    if is_npm_part(bare) {
        Ok(())
    } else {
        Err(Wrong::Name)
    }
}

fn is_npm_part(part: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "._-~".contains(c);
    part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(inside)
}

fn npm_version(version: &str) -> Result<Found, Wrong> {
    if version.contains(['/', ':', '@']) || ends_with_any(version, &NPM_ARCHIVES) {
        return Err(Wrong::Source);
    }
    if version == "*" {
        return Ok(Found::default());
    }
    let operators = [">=", "<=", "^", "~", ">", "<", "="];
    let operator = operators
        .iter()
        .find(|operator| version.starts_with(**operator));
    let plain = operator.map_or(version, |operator| &version[operator.len()..]);
    let inside = |c: char| c.is_ascii_alphanumeric() || "._-+*".contains(c);
    let starts = plain.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !plain.chars().all(inside) {
        return Err(Wrong::Version);
    }
    let exact = operator.is_none_or(|operator| *operator == "=");
    let pinned = exact && is_full_version(plain);
    Ok(Found { pinned, host: None })
}

/// `1.2.3`, with what may follow (`-rc.1`, `+build`).
fn is_full_version(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.');
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    numbers.by_ref().take(3).filter(|part| number(part)).count() == 3 && numbers.next().is_none()
}

/// `npm:…`, `jsr:@scope/name…`, `https://…`.
pub(super) fn deno(text: &str) -> Result<Found, Wrong> {
    if let Some(rest) = text.strip_prefix("npm:") {
        return deno_registry(rest);
    }
    if let Some(rest) = text.strip_prefix("jsr:") {
        if !rest.starts_with('@') {
            return Err(Wrong::Name);
        }
        return deno_registry(rest);
    }
    match text.strip_prefix("https://") {
        Some(rest) => deno_url(rest),
        None => Err(Wrong::Source),
    }
}

/// As npm's, and a path into the package may follow (`npm:chalk@5/source`).
fn deno_registry(text: &str) -> Result<Found, Wrong> {
    let scoped = usize::from(text.starts_with('@'));
    let mut slashes = text.match_indices('/').map(|(at, _)| at);
    let end = slashes.nth(scoped).unwrap_or(text.len());
    let (package, path) = text.split_at(end);
    if let Some(path) = path.strip_prefix('/') {
        let inside = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let climbs = path.split('/').any(|part| matches!(part, "" | "." | ".."));
        if climbs || !path.chars().all(inside) {
            return Err(Wrong::Name);
        }
    }
    npm_target(package)
}

/// `https://host[:port]/path[?query]`. Nothing may be left for two parsers to
/// read in two ways: no user, no empty authority, no half percent signs.
fn deno_url(rest: &str) -> Result<Found, Wrong> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if !port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok()) {
        return Err(Wrong::Name);
    }
    let host = Host::parse(host).map_err(|_| Wrong::Name)?;
    let hex = |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit());
    let encoded = path.split('%').skip(1).all(|part| {
        let mut digits = part.chars();
        hex(digits.next()) && hex(digits.next())
    });
    if !encoded {
        return Err(Wrong::Name);
    }
    Ok(Found {
        pinned: false,
        host: Some(host),
    })
}

/// A name of Debian's or Alpine's, and `=version`.
pub(super) fn bash(text: &str) -> Result<Found, Wrong> {
    // apk takes for a file whatever holds `.apk`, apt what ends in `.deb`.
    if text.contains('/') || text.contains(".apk") || text.contains(".deb") {
        return Err(Wrong::Source);
    }
    let (name, version) = match text.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    let inside = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    // To apt `name-` means: remove it.
    if !starts || name.ends_with('-') || !name.chars().all(inside) {
        return Err(Wrong::Name);
    }
    let Some(version) = version else {
        return Ok(Found::default());
    };
    let inside = |c: char| c.is_ascii_alphanumeric() || "._+-:~".contains(c);
    let starts = version.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !version.chars().all(inside) {
        return Err(Wrong::Version);
    }
    Ok(Found {
        pinned: true,
        host: None,
    })
}

/// The part of a good package that says which one it is: all but the version.
/// For deno that includes the registry; a URL or a path into a package is a name
/// as a whole.
pub(super) fn name(runtime: Runtime, text: &str) -> &str {
    let end = match runtime {
        Runtime::Python => text.find(['[', '~', '=', '!', '<', '>']),
        Runtime::Node | Runtime::Bun => Some(npm_split(text).0.len()),
        Runtime::Deno => deno_name_end(text),
        Runtime::Bash => text.find('='),
    };
    &text[..end.unwrap_or(text.len())]
}

fn deno_name_end(text: &str) -> Option<usize> {
    let registry = ["npm:", "jsr:"]
        .iter()
        .find(|start| text.starts_with(**start))?;
    let rest = &text[registry.len()..];
    let scoped = usize::from(rest.starts_with('@'));
    if rest.matches('/').count() > scoped {
        return None;
    }
    Some(registry.len() + npm_split(rest).0.len())
}

fn ends_with_any(text: &str, ends: &[&str]) -> bool {
    let text = text.to_ascii_lowercase();
    ends.iter().any(|end| text.ends_with(end))
}
