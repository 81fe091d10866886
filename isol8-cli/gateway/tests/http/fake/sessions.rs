//! The fake daemon's sessions: names with files.

use bytes::Bytes;
use isol8_proto::v1::{
    AdoptRequest, AdoptResponse, DeleteRequest, DeleteResponse, FileEntry, FileKind, GetDone,
    GetRequest, GetResponse, ListSessionsRequest, ListSessionsResponse, PutRequest, PutResponse,
    RemoveSessionRequest, RemoveSessionResponse, SessionInfo, SessionState, get_response::Message,
    put_request, session_service_server::SessionService,
};
use tonic::{Request, Response, Status, Streaming};

use super::{Services, failing};

/// A name that ends so is busy, unless it is forced.
const BUSY: &str = ".busy";

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).expect("it is text")
}

fn file(path: &str, content: Vec<u8>) -> Vec<Message> {
    let entry = FileEntry {
        path: path.to_owned().into(),
        kind: FileKind::File.into(),
        size_bytes: content.len() as u64,
        ..FileEntry::default()
    };
    vec![Message::Entry(entry), Message::Data(content.into())]
}

#[tonic::async_trait]
impl SessionService for Services {
    type GetStream = tokio_stream::Iter<std::vec::IntoIter<Result<GetResponse, Status>>>;

    async fn list(
        &self,
        _: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let sessions = self.0.sessions();
        let info = |name: String| SessionInfo {
            state: match name.ends_with(BUSY) {
                true => SessionState::Busy.into(),
                false => SessionState::Idle.into(),
            },
            name,
            runtime: "python".to_owned(),
            idle_ms: 1000,
            ..SessionInfo::default()
        };
        let sessions = sessions.into_iter().map(info).collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn remove(
        &self,
        request: Request<RemoveSessionRequest>,
    ) -> Result<Response<RemoveSessionResponse>, Status> {
        let RemoveSessionRequest { name, force } = request.into_inner();
        if name.ends_with(BUSY) && !force {
            return Err(failing("session_busy"));
        }
        let removed = self.0.sessions.lock().expect("no panic").remove(&name);
        removed.ok_or_else(|| failing("not_found"))?;
        self.0.note("removed");
        Ok(Response::new(RemoveSessionResponse::default()))
    }

    async fn adopt(&self, _: Request<AdoptRequest>) -> Result<Response<AdoptResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<PutResponse>, Status> {
        let mut requests = request.into_inner();
        let (mut start, mut size, mut content) = (None, None, Vec::new());
        while let Some(request) = requests.message().await? {
            match request.message.expect("one of ours") {
                put_request::Message::Start(first) => {
                    let sessions = self.0.sessions();
                    if !sessions.contains(&first.session) {
                        return Err(failing("not_found"));
                    }
                    start = Some(first);
                }
                put_request::Message::Entry(entry) => size = Some(entry.size_bytes),
                put_request::Message::Data(data) => content.extend_from_slice(&data),
            }
        }
        assert_eq!(size, Some(content.len() as u64), "the file is whole");
        let start = start.expect("a start");
        let path = text(&start.path);
        self.0.note(format!("put {path}: {} bytes", content.len()));
        if path.ends_with("full") {
            return Err(failing("no_space"));
        }
        let mut sessions = self.0.sessions.lock().expect("no panic");
        let files = sessions.get_mut(&start.session);
        files.expect("it is there").insert(path, content);
        Ok(Response::new(PutResponse::default()))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let asked = request.into_inner();
        let path = text(&asked.path);
        let sessions = self.0.sessions.lock().expect("no panic");
        let files = sessions.get(&asked.session);
        let files = files.ok_or_else(|| failing("not_found"))?;
        let mut messages = match files.get(&path) {
            Some(content) => file("", content.clone()),
            None => {
                let folder = format!("{path}/");
                let below = files.iter().filter_map(|(name, content)| {
                    Some((name.strip_prefix(&folder)?.to_owned(), content.clone()))
                });
                let below: Vec<_> = below.collect();
                if below.is_empty() {
                    return Err(failing("not_found"));
                }
                let top = FileEntry {
                    kind: FileKind::Folder.into(),
                    ..FileEntry::default()
                };
                let files = below
                    .into_iter()
                    .flat_map(|(name, content)| file(&name, content));
                std::iter::once(Message::Entry(top)).chain(files).collect()
            }
        };
        messages.push(Message::Done(GetDone::default()));
        let answers = messages.into_iter().map(|message| {
            Ok(GetResponse {
                message: Some(message),
            })
        });
        let answers: Vec<_> = answers.collect();
        Ok(Response::new(tokio_stream::iter(answers)))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}
