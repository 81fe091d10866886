//! The commands about files. Each is answered once.

use isol8_proto::init::{Done, Failed, File, Folder, Remove, Symlink, from_init};

use super::{Supervisor, busy};
use crate::{
    fetch::{self, Fetch},
    file,
    remove::{self, Removal},
    wire::LinkError,
};

impl Supervisor {
    pub(super) fn write(&mut self, piece: &File) -> Result<(), LinkError> {
        match file::write(&mut self.writing, piece) {
            Some(answer) => self.answer(answer.map(from_init::Message::FileWritten)),
            None => Ok(()),
        }
    }

    pub(super) fn make_folder(&mut self, order: &Folder) -> Result<(), LinkError> {
        let made = file::make_folder(order);
        self.answer(made.map(|()| from_init::Message::Done(Done {})))
    }

    pub(super) fn make_link(&mut self, order: &Symlink) -> Result<(), LinkError> {
        let made = file::make_link(order);
        self.answer(made.map(|()| from_init::Message::Done(Done {})))
    }

    pub(super) fn begin_fetch(
        &mut self,
        order: &isol8_proto::init::Fetch,
    ) -> Result<(), LinkError> {
        if self.has_program() && !self.line.is_lasting() {
            return self.answer(Err(busy()));
        }
        if self.is_at_files() {
            return self.refuse_files();
        }
        match Fetch::start(order) {
            Ok(fetch) => self.fetch = Some(fetch),
            Err(failed) => self.answer(Err(failed))?,
        }
        Ok(())
    }

    pub(super) fn begin_removal(&mut self, order: &Remove) -> Result<(), LinkError> {
        if self.is_at_files() {
            return self.refuse_files();
        }
        match Removal::start(order) {
            Ok(Some(removal)) => {
                self.removal = Some(removal);
                Ok(())
            }
            Ok(None) => self.answer(Ok(from_init::Message::Done(Done {}))),
            Err(failed) => self.answer(Err(failed)),
        }
    }

    /// A tree is being read or removed.
    pub(super) const fn is_at_files(&self) -> bool {
        self.fetch.is_some() || self.removal.is_some()
    }

    /// Ends what is under way as well: its answer would be taken for that of the
    /// command.
    pub(super) fn refuse_files(&mut self) -> Result<(), LinkError> {
        self.fetch = None;
        self.removal = None;
        self.answer(Err(busy()))
    }

    /// Answers a command about files.
    pub(super) fn answer(
        &mut self,
        answer: Result<from_init::Message, Failed>,
    ) -> Result<(), LinkError> {
        self.line.push(answer.unwrap_or_else(|failed| {
            from_init::Message::Failed(Failed {
                files: true,
                ..failed
            })
        }))
    }

    pub(super) fn pump_fetch(&mut self) -> Result<(), LinkError> {
        let Some(fetch) = &mut self.fetch else {
            return Ok(());
        };
        let answer = match fetch.pump(&mut self.line.outbox)? {
            fetch::Progress::Going => return Ok(()),
            fetch::Progress::Done(fetched) => Ok(from_init::Message::Fetched(fetched)),
            fetch::Progress::Failed(failed) => Err(failed),
        };
        self.fetch = None;
        self.answer(answer)
    }

    pub(super) fn pump_removal(&mut self) -> Result<(), LinkError> {
        let Some(removal) = &mut self.removal else {
            return Ok(());
        };
        let answer = match removal.pump() {
            remove::Progress::Going => return Ok(()),
            remove::Progress::Done => Ok(from_init::Message::Done(Done {})),
            remove::Progress::Failed(failed) => Err(failed),
        };
        self.removal = None;
        self.answer(answer)
    }
}
