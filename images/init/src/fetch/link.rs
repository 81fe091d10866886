//! Which symbolic links are passed on.

/// Whether a link, `depth` folders below what was asked for, leads to a place
/// that was asked for as well.
///
/// It may go up only at its beginning: then it starts in a folder that is known
/// to be real, and whatever links it goes through keep to the same rule. `a/../b`
/// could come out anywhere when `a` is a link.
pub(super) fn stays_inside(depth: usize, target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") {
        return false;
    }
    let parts = target.split(|byte| *byte == b'/');
    let mut parts = parts.filter(|part| !part.is_empty() && *part != b".");
    let mut ups = 0;
    let mut rest = parts.by_ref().skip_while(|part| {
        let up = *part == b"..";
        ups += usize::from(up);
        up
    });
    !rest.any(|part| part == b"..") && ups <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_goes_up_first_and_not_too_far() {
        for (depth, target, inside) in [
            (0, "a", true),
            (0, "./a//b/", true),
            (0, ".", true),
            (0, "..a", true),
            (0, "..", false),
            (0, "../a", false),
            (1, "..", true),
            (1, "../a", true),
            (1, "./../a", true),
            (1, "../../a", false),
            (2, "../../a/b", true),
            (3, "a/../b", false),
            (3, "../a/..", false),
            (3, "", false),
            (3, "/sandbox/a", false),
            (3, "/", false),
        ] {
            let found = stays_inside(depth, target.as_bytes());
            assert_eq!(found, inside, "{depth} {target}");
        }
    }
}
