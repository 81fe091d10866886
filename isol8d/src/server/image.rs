//! `ImageService`: builds the base images with progress.

use std::sync::Arc;

use isol8_core::{failure::Failure, runtime::Runtime, sandbox::EngineKind};
use isol8_engine::ImageInfo;
use isol8_proto::v1::{self, image_service_server::ImageService, setup_event::Event};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::principal;
use crate::{
    convert::{self, runtime_to_wire},
    daemon::Daemon,
    status,
};

/// Lines of a build that may wait for the client. More are left out: they are
/// for a person to see that something moves.
const MAX_LINES: usize = 1024;

type Events = mpsc::Sender<Result<v1::SetupEvent, Status>>;

pub(super) struct Images(pub(super) Arc<Daemon>);

fn event(event: Event) -> Result<v1::SetupEvent, Status> {
    Ok(v1::SetupEvent { event: Some(event) })
}

async fn setup(
    daemon: &Daemon,
    force: bool,
    runtimes: &[Runtime],
    events: &Events,
) -> Result<(), Failure> {
    let engine = daemon.roster.engine(EngineKind::Docker)?;
    let _turn = daemon.build_turn().await;
    let mut done = v1::SetupDone::default();
    for runtime in runtimes.iter().copied() {
        let number = runtime_to_wire(runtime).into();
        let began = Instant::now();
        let progress = |line: &str| {
            let line = v1::BuildLine {
                runtime: number,
                text: line.to_owned(),
            };
            let _full = events.try_send(event(Event::Line(line)));
        };
        let built = engine.build_image(runtime, force, &progress).await?;
        if built.built {
            done.built += 1;
        } else {
            done.unchanged += 1;
        }
        let ready = v1::ImageReady {
            runtime: number,
            tag: built.image.tag,
            id: built.image.id,
            built: built.built,
            elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let _gone = events.send(event(Event::Image(ready))).await;
    }
    let _gone = events.send(event(Event::Done(done))).await;
    Ok(())
}

impl Images {
    fn start(
        &self,
        request: &Request<v1::SetupRequest>,
    ) -> Result<ReceiverStream<Result<v1::SetupEvent, Status>>, Failure> {
        principal(request)?;
        self.0.check_open()?;
        let asked = request.get_ref();
        let named: Result<Vec<_>, _> = asked
            .runtimes
            .iter()
            .map(|number| convert::runtime(*number))
            .collect();
        let mut runtimes = named?;
        if runtimes.is_empty() {
            runtimes = Runtime::ALL.to_vec();
        }
        let force = asked.force;
        let (events, stream) = mpsc::channel(MAX_LINES);
        let daemon = Arc::clone(&self.0);
        self.0.runs.spawn(async move {
            let built = tokio::select! {
                built = setup(&daemon, force, &runtimes, &events) => built,
                // The client went: a build that nobody waits for is given up.
                () = events.closed() => return,
                () = daemon.cancel_runs.cancelled() => Err(Failure::new(
                    isol8_core::failure::FailureKind::ShuttingDown,
                    "the daemon is going down",
                )),
            };
            if let Err(failure) = built {
                let _gone = events.send(Err(status::from_failure(&failure))).await;
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    async fn list(&self) -> Result<Vec<ImageInfo>, Failure> {
        self.0.roster.engine(EngineKind::Docker)?.images().await
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    type SetupStream = ReceiverStream<Result<v1::SetupEvent, Status>>;

    async fn setup(
        &self,
        request: Request<v1::SetupRequest>,
    ) -> Result<Response<Self::SetupStream>, Status> {
        self.start(&request)
            .map(Response::new)
            .map_err(|failure| status::from_failure(&failure))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let images = match principal(&request) {
            Ok(_) => self.list().await,
            Err(failure) => Err(failure),
        };
        let images = images.map_err(|failure| status::from_failure(&failure))?;
        let images = images
            .into_iter()
            .map(|image| v1::Image {
                tag: image.tag,
                id: image.id,
                runtime: runtime_to_wire(image.runtime).into(),
                size_bytes: image.size_bytes,
            })
            .collect();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }
}
