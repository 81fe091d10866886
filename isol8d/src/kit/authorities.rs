//! The certificate authorities that programs trust where the operator has added
//! some: the host's own and those of `network.caBundle`, in one file.
//!
//! The variables that point to it replace what a program would trust otherwise,
//! so the host's come along.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

use data_encoding::BASE64;
use isol8_core::{
    config::MAX_CA_BUNDLE_BYTES,
    failure::{Failure, FailureKind},
};

/// Where distributions keep theirs; the first that has any is taken.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Characters of a line of PEM.
const LINE: usize = 64;

/// The host's authorities and those of the file that `network.caBundle` names,
/// each once, as PEM without anything else.
///
/// # Errors
/// `InvalidRequest` names the key and the path where the file cannot be read or
/// holds no certificate. A host without authorities is none.
pub(crate) fn merged(bundle: &Path) -> Result<Vec<u8>, Failure> {
    let unusable = || {
        let message = format!(
            "`network.caBundle` of the configuration cannot be used: `{}`",
            bundle.display()
        );
        Failure::new(FailureKind::InvalidRequest, message)
            .hint("name a file with certificates in PEM, or leave `network.caBundle` out")
    };
    let added = read(bundle).map_err(|error| unusable().because(&error))?;
    let added = certificates(&added);
    if added.is_empty() {
        return Err(unusable().cause("it holds no certificate"));
    }
    let found = SYSTEM.iter().find_map(|path| {
        let found = certificates(&read(Path::new(path)).ok()?);
        (!found.is_empty()).then_some(found)
    });
    Ok(write(found.into_iter().flatten().chain(added)))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    file.take(MAX_CA_BUNDLE_BYTES + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > MAX_CA_BUNDLE_BYTES {
        return Err(io::Error::other("it is too large to be one"));
    }
    Ok(content)
}

/// Every whole certificate in a text, in its binary form. Other blocks, comments
/// and what is broken are passed over.
fn certificates(text: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines().map(str::trim) {
        match &mut block {
            _ if line == BEGIN => block = Some(String::new()),
            Some(_) if line == END => found.extend(block.take().and_then(|body| decode(&body))),
            Some(_) if line.starts_with("-----") => block = None,
            Some(body) => body.push_str(line),
            None => {}
        }
    }
    found
}

/// A certificate is one DER sequence, with a length of two or three bytes, and
/// nothing behind it.
fn decode(body: &str) -> Option<Vec<u8>> {
    let binary = BASE64.decode(body.as_bytes()).ok()?;
    let (head, length) = match *binary.as_slice() {
        [0x30, 0x82, a, b, ..] => (4, usize::from(u16::from_be_bytes([a, b]))),
        [0x30, 0x81, a, ..] => (3, usize::from(a)),
        _ => return None,
    };
    (binary.len() == head + length).then_some(binary)
}

fn write(certificates: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    for certificate in certificates {
        let body = BASE64.encode(&certificate);
        if !seen.insert(certificate) {
            continue;
        }
        text.push_str(BEGIN);
        for (at, character) in body.chars().enumerate() {
            if at % LINE == 0 {
                text.push('\n');
            }
            text.push(character);
        }
        text.push('\n');
        text.push_str(END);
        text.push('\n');
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Looks like a certificate from the outside.
    fn certificate(fill: u8) -> Vec<u8> {
        let mut binary = vec![0x30, 0x82, 0x01, 0x00];
        binary.extend([fill; 256]);
        binary
    }

    fn pem(fill: u8) -> String {
        String::from_utf8(write([certificate(fill)].into_iter())).expect("text")
    }

    #[test]
    fn certificates_come_through_once_and_alone() {
        let other = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let cut = format!("{BEGIN}\nMIIB\n{other}{BEGIN}\n!!\n{END}\n{BEGIN}\nMIIB\n{END}\n");
        let text = format!(
            "# one\r\n{}{other}{cut}{}",
            pem(1),
            pem(2).replace('\n', "\r\n")
        );
        let found = certificates(text.as_bytes());
        assert_eq!(found, [certificate(1), certificate(2)]);
        let twice = found.iter().chain(&found).cloned();
        let written = write(twice);
        assert_eq!(written, format!("{}{}", pem(1), pem(2)).into_bytes());
        assert!(pem(1).lines().all(|line| line.len() <= LINE));
        assert_eq!(certificates(&written), found);
    }

    #[test]
    fn what_is_not_a_bundle_names_the_key_and_the_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty.pem");
        fs::write(&empty, "nothing\n").expect("it can be written");
        for path in [folder.path().join("none.pem"), folder.path().into(), empty] {
            let failure = merged(&path).expect_err("refused");
            assert_eq!(failure.kind, FailureKind::InvalidRequest);
            assert!(failure.message.contains("`network.caBundle`"), "{failure}");
            let path = path.to_str().expect("text");
            assert!(failure.message.contains(path), "{failure}");
            assert_eq!(failure.causes.len(), 1, "{failure:?}");
        }
    }

    #[test]
    fn the_hosts_own_come_along() {
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = folder.path().join("own.pem");
        fs::write(&bundle, pem(7)).expect("it can be written");
        let merged = merged(&bundle).expect("a bundle");
        assert!(merged.ends_with(pem(7).as_bytes()));
        let own = SYSTEM.iter().find_map(|path| read(Path::new(path)).ok());
        let own = own.map_or(0, |text| certificates(&text).len());
        assert!(certificates(&merged).len() <= own + 1);
        assert!(own == 0 || certificates(&merged).len() > 1);
    }
}
