//! What was passed over, for it is neither a file nor a folder.

use crate::console::{Console, visible};

/// More than these are only counted.
const MOST_TOLD: usize = 20;

/// Told when the copy is over.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    told: Vec<String>,
    more: u64,
}

impl Skipped {
    /// `what` it is, such as "a link".
    pub(super) fn add(&mut self, path: &[u8], what: &str) {
        match self.told.len() < MOST_TOLD {
            true => self.told.push(format!("{} is {what}", visible(path))),
            false => self.more += 1,
        }
    }

    pub(super) fn append(&mut self, mut other: Self) {
        let room = MOST_TOLD - self.told.len();
        if other.told.len() > room {
            let rest = other.told.split_off(room);
            self.more += rest.len() as u64;
        }
        self.told.append(&mut other.told);
        self.more += other.more;
    }

    pub(super) fn tell(&self, console: &Console) {
        for line in &self.told {
            console.note(&format!("passed over: {line}"));
        }
        match self.more {
            0 => {}
            1 => console.note("passed over: 1 more"),
            more => console.note(&format!("passed over: {more} more")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_told() {
        let mut all = Skipped::default();
        for _ in 0..3 {
            let mut some = Skipped::default();
            for number in 0..MOST_TOLD + 1 {
                some.add(number.to_string().as_bytes(), "a link");
            }
            all.append(some);
        }
        assert_eq!(all.told.len(), MOST_TOLD);
        assert_eq!(all.told[1], "1 is a link");
        assert_eq!(all.more, 3 * (MOST_TOLD as u64 + 1) - MOST_TOLD as u64);
    }
}
