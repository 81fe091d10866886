//! The fake daemon's sessions and its cleanup: answers that the test has written
//! down, and notes of what was asked.

use std::collections::BTreeMap;

use bytes::Bytes;
use isol8_proto::v1::{
    AdoptRequest, AdoptResponse, CleanupItem, CleanupRequest, CleanupResponse, DeleteRequest,
    DeleteResponse, ErrorDetail, FileEntry, FileKind, GetDone, GetRequest, GetResponse,
    ListSessionsRequest, ListSessionsResponse, PutRequest, PutResponse, RemoveSessionRequest,
    RemoveSessionResponse, SessionInfo, get_response, put_request, session_service_server,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Services;

/// What it answers.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) sessions: Vec<SessionInfo>,
    /// What `Get` sends for a path.
    pub(crate) files: BTreeMap<&'static str, Vec<Step>>,
    /// Calls that fail: "get", "put", "remove NAME", …
    pub(crate) failures: BTreeMap<&'static str, ErrorDetail>,
    pub(crate) kept_sandbox_id: &'static str,
    /// What a dry run finds, and what is done.
    pub(crate) found: Vec<CleanupItem>,
    pub(crate) cleaned: Vec<CleanupItem>,
}

/// A step of `Get`.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Entry(FileEntry),
    Data(&'static [u8]),
    /// So many bytes, in pieces of 256 KiB.
    Zeros(usize),
    Done,
    Fail(ErrorDetail),
    /// Nothing more, until the client has gone.
    Hang,
}

/// An entry of this kind; `size` is a file's.
pub(crate) fn entry(path: &[u8], kind: FileKind, size: u64) -> Step {
    Step::Entry(FileEntry {
        path: Bytes::copy_from_slice(path),
        kind: kind.into(),
        mode: match kind {
            FileKind::Folder => 0o755,
            _ => 0o644,
        },
        size_bytes: size,
        ..FileEntry::default()
    })
}

/// What the daemon says in place of an answer.
pub(crate) fn failing(kind: &str, message: &str) -> ErrorDetail {
    ErrorDetail {
        kind: kind.to_owned(),
        message: message.to_owned(),
        hint: "type this".to_owned(),
        ..ErrorDetail::default()
    }
}

fn status(detail: &ErrorDetail) -> Status {
    let details = detail.encode_to_vec().into();
    Status::with_details(Code::Unknown, detail.message.clone(), details)
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Services {
    fn may(&self, call: &str) -> Result<(), Status> {
        match self.answers.failures.get(call) {
            Some(detail) => Err(status(detail)),
            None => Ok(()),
        }
    }

    pub(super) fn clean(
        &self,
        request: &CleanupRequest,
    ) -> Result<Response<CleanupResponse>, Status> {
        let CleanupRequest { dry_run, images } = request;
        self.note(&format!("cleanup dry_run={dry_run} images={images}"));
        let items = match dry_run {
            true => self.answers.found.clone(),
            false => self.answers.cleaned.clone(),
        };
        Ok(Response::new(CleanupResponse { items }))
    }

    /// Notes what comes, files with what is in them.
    async fn take(&self, requests: &mut Streaming<PutRequest>) -> Result<PutResponse, Status> {
        let mut taken = PutResponse::default();
        let mut file: Option<(String, u64, Vec<u8>)> = None;
        loop {
            let next = requests
                .message()
                .await
                .inspect_err(|_| self.note("cut off"))?;
            let next = next.map(|next| next.message.expect("it is one of ours"));
            if let Some((name, 0, data)) = file.take_if(|(_, left, _)| {
                *left == 0 || !matches!(next, Some(put_request::Message::Data(_)))
            }) {
                let shown = match data.len() {
                    0..=64 => text(&data),
                    long => format!("{long} bytes"),
                };
                self.note(&format!("{name}: {shown}"));
            }
            match next {
                Some(put_request::Message::Entry(entry)) => {
                    let (kind, path, mode) = (entry.kind(), text(&entry.path), entry.mode);
                    match kind {
                        FileKind::File => {
                            taken.files += 1;
                            let name = format!("file `{path}` {mode:o}");
                            file = Some((name, entry.size_bytes, Vec::new()));
                        }
                        FileKind::Folder => self.note(&format!("folder `{path}` {mode:o}")),
                        other => panic!("{other:?} must not be sent"),
                    }
                }
                Some(put_request::Message::Data(data)) => {
                    assert!(data.len() <= 256 << 10, "a piece is too large");
                    let (name, left, all) = file.as_mut().expect("data of a file");
                    if all.is_empty() {
                        self.note(&format!("data of {name}"));
                    }
                    *left -= data.len() as u64;
                    taken.bytes += data.len() as u64;
                    // Nobody looks into large ones.
                    if taken.bytes < 16 << 20 {
                        all.extend_from_slice(&data);
                    }
                }
                Some(put_request::Message::Start(_)) => panic!("a second start"),
                None => {
                    assert!(file.is_none(), "the end of the stream is within a file");
                    self.note("whole");
                    return Ok(taken);
                }
            }
        }
    }
}

async fn send(
    steps: Vec<Step>,
    most: usize,
    sender: &mpsc::Sender<Result<GetResponse, Status>>,
) -> Option<()> {
    let message = |message| {
        Ok(GetResponse {
            message: Some(message),
        })
    };
    let mut entries = 0;
    for step in steps {
        let next = match step {
            Step::Entry(entry) => {
                entries += 1;
                if most > 0 && entries > most {
                    let detail = failing("no_space", "there are more entries than asked for");
                    sender.send(Err(status(&detail))).await.ok()?;
                    return None;
                }
                message(get_response::Message::Entry(entry))
            }
            Step::Data(data) => message(get_response::Message::Data(data.into())),
            Step::Zeros(mut left) => {
                while left > 0 {
                    let piece = left.min(256 << 10);
                    left -= piece;
                    let data = Bytes::from(vec![0; piece]);
                    let data = message(get_response::Message::Data(data));
                    sender.send(data).await.ok()?;
                }
                continue;
            }
            Step::Done => message(get_response::Message::Done(GetDone::default())),
            Step::Fail(detail) => Err(status(&detail)),
            Step::Hang => {
                sender.closed().await;
                return None;
            }
        };
        sender.send(next).await.ok()?;
    }
    Some(())
}

#[tonic::async_trait]
impl session_service_server::SessionService for Services {
    type GetStream = ReceiverStream<Result<GetResponse, Status>>;

    async fn list(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        assert!(request.into_inner().sizes);
        let sessions = self.answers.sessions.clone();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn remove(
        &self,
        request: Request<RemoveSessionRequest>,
    ) -> Result<Response<RemoveSessionResponse>, Status> {
        let RemoveSessionRequest { name, force } = request.into_inner();
        self.note(&format!("remove {name} force={force}"));
        self.may(&format!("remove {name}"))?;
        let kept_sandbox_id = self.answers.kept_sandbox_id.to_owned();
        Ok(Response::new(RemoveSessionResponse { kept_sandbox_id }))
    }

    async fn adopt(
        &self,
        request: Request<AdoptRequest>,
    ) -> Result<Response<AdoptResponse>, Status> {
        let AdoptRequest { sandbox_id, name } = request.into_inner();
        self.note(&format!("adopt {sandbox_id} {name}"));
        self.may("adopt")?;
        let session = self.answers.sessions.first().cloned();
        Ok(Response::new(AdoptResponse { session }))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<PutResponse>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.message);
        let Some(put_request::Message::Start(start)) = first else {
            panic!("no start");
        };
        self.note(&format!("put {}:{}", start.session, text(&start.path)));
        self.may("put")?;
        Ok(Response::new(self.take(&mut requests).await?))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let asked = request.into_inner();
        let path = text(&asked.path);
        let what = match asked.names_only {
            true => "names of",
            false => "get",
        };
        self.note(&format!("{what} {}:{path}", asked.session));
        self.may("get")?;
        let Some(steps) = self.answers.files.get(path.as_str()).cloned() else {
            return Err(status(&failing("not_found", "there is no such file")));
        };
        let most = usize::try_from(asked.max_entries).expect("it is small");
        let (sender, receiver) = mpsc::channel(1);
        let services = self.clone();
        tokio::spawn(async move {
            send(steps, most, &sender).await;
            drop(sender);
            services.note("get is over");
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let asked = request.into_inner();
        let (name, path, recursive) = (asked.session, text(&asked.path), asked.recursive);
        self.note(&format!("delete {name}:{path} recursive={recursive}"));
        self.may("delete")?;
        Ok(Response::new(DeleteResponse {}))
    }
}
