//! What the process told about one traffic.

use isol8_core::egress::record::Record;
use isol8_egress::{Totals, limits};

use super::Report;

/// What a record takes beside its texts, roughly, in bytes.
const RECORD_BYTES: usize = 128;

/// Records and totals as they come.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    report: Report,
    /// Bytes of the records, as they are bounded.
    size: u64,
    /// The first record that no totals have counted yet.
    uncounted: usize,
}

impl Ledger {
    /// Adds a record. The process keeps to its budget; one that was started in
    /// place of another begins with a new one, and then ours holds.
    pub(super) fn add(&mut self, record: Record) {
        let texts = [&record.method, &record.host, &record.reason];
        let path = record.path.as_deref().unwrap_or_default();
        let size = texts.map(String::len).iter().sum::<usize>() + path.len() + RECORD_BYTES;
        self.size += size as u64;
        if self.size > limits::LOG_BYTES {
            self.report.lost = true;
            return;
        }
        self.report.records.push(record);
    }

    /// Adds what a process counted until the end.
    pub(super) fn count(&mut self, totals: &Totals) {
        self.report.bytes_in += totals.bytes_in;
        self.report.bytes_out += totals.bytes_out;
        self.report.lost |= totals.unlogged > 0;
        self.uncounted = self.report.records.len();
    }

    /// The process is gone without totals: what it logged is all there is.
    pub(super) fn lose(&mut self) {
        self.report.lost = true;
        for record in &self.report.records[self.uncounted..] {
            self.report.bytes_in += record.bytes_in;
            self.report.bytes_out += record.bytes_out;
        }
        self.uncounted = self.report.records.len();
    }

    pub(super) fn into_report(self) -> Report {
        self.report
    }
}
