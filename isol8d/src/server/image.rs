//! `ImageService`: builds base images and custom images with progress.

use std::{collections::BTreeMap, sync::Arc};

use isol8_core::{
    config::Config,
    failure::{Failure, FailureKind},
    runtime::Runtime,
    sandbox::EngineKind,
};
use isol8_engine::{Built, CustomOrder, ImageInfo, docker};
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

/// What one call makes, in this order.
#[derive(Debug, Default)]
struct Work {
    bases: Vec<Runtime>,
    /// Also where the base image was built by this call.
    customs: Vec<CustomOrder>,
    force: bool,
}

impl Work {
    /// # Errors
    /// `InvalidRequest`.
    fn of_setup(asked: &v1::SetupRequest, config: &Config) -> Result<Self, Failure> {
        let numbers = asked.runtimes.iter();
        let mut bases = numbers
            .map(|number| convert::runtime(*number))
            .collect::<Result<Vec<_>, _>>()?;
        if bases.is_empty() {
            bases = Runtime::ALL.to_vec();
        }
        let mut replaced = BTreeMap::new();
        for own in &asked.dependencies {
            let runtime = convert::runtime(own.runtime)?;
            let packages = convert::packages(runtime, &own.packages)?;
            if replaced.insert(runtime, packages).is_some() {
                let message = format!("`dependencies` has {runtime} twice");
                return Err(Failure::new(FailureKind::InvalidRequest, message));
            }
        }
        let mut customs = Vec::new();
        for runtime in bases.iter().copied() {
            let packages = match replaced.remove(&runtime) {
                Some(packages) => packages,
                None => convert::configured(runtime, config)?,
            };
            if !packages.is_empty() {
                customs.push(CustomOrder {
                    runtime,
                    packages,
                    alias: None,
                    force: asked.force,
                });
            }
        }
        Ok(Self {
            bases,
            customs,
            force: asked.force,
        })
    }

    /// # Errors
    /// `InvalidRequest`.
    fn of_build(asked: &v1::BuildRequest) -> Result<Self, Failure> {
        let runtime = convert::runtime(asked.base)?;
        let packages = convert::packages(runtime, &asked.packages)?;
        if packages.is_empty() {
            let message = "a custom image needs packages: there are none";
            return Err(Failure::new(FailureKind::InvalidRequest, message)
                .hint("name one with `--install`"));
        }
        let tag = Some(asked.tag.as_str()).filter(|tag| !tag.is_empty());
        Ok(Self {
            customs: vec![CustomOrder {
                runtime,
                packages,
                alias: tag.map(docker::alias).transpose()?,
                force: asked.force,
            }],
            ..Self::default()
        })
    }

    async fn carry_out(&self, daemon: &Daemon, events: &Events) -> Result<(), Failure> {
        let engine = daemon.roster.engine(EngineKind::Docker)?;
        let _turn = daemon.build_turn().await;
        let mut done = v1::SetupDone::default();
        for runtime in self.bases.iter().copied() {
            let teller = Teller::new(runtime, events);
            let line = |line: &str| teller.line(line);
            let built = engine.build_image(runtime, self.force, &line).await?;
            teller.ready(built, &mut done).await;
        }
        for order in &self.customs {
            let teller = Teller::new(order.runtime, events);
            let line = |line: &str| teller.line(line);
            let mut built = engine.build_custom(order, &line).await;
            if matches!(&built, Err(failure) if failure.kind == FailureKind::ImageMissing) {
                let base = engine.build_image(order.runtime, false, &line).await?;
                teller.ready(base, &mut done).await;
                built = engine.build_custom(order, &line).await;
            }
            teller.ready(built?, &mut done).await;
        }
        let _gone = events.send(event(Event::Done(done))).await;
        Ok(())
    }
}

/// Tells the client of one image.
struct Teller<'a> {
    runtime: i32,
    began: Instant,
    events: &'a Events,
}

impl<'a> Teller<'a> {
    fn new(runtime: Runtime, events: &'a Events) -> Self {
        Self {
            runtime: runtime_to_wire(runtime).into(),
            began: Instant::now(),
            events,
        }
    }

    fn line(&self, text: &str) {
        let line = v1::BuildLine {
            runtime: self.runtime,
            text: text.to_owned(),
        };
        let _full = self.events.try_send(event(Event::Line(line)));
    }

    async fn ready(&self, built: Built, done: &mut v1::SetupDone) {
        if built.built {
            done.built += 1;
        } else {
            done.unchanged += 1;
        }
        let ready = v1::ImageReady {
            runtime: self.runtime,
            tag: built.image.tag,
            id: built.image.id,
            built: built.built,
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let _gone = self.events.send(event(Event::Image(ready))).await;
    }
}

impl Images {
    /// Does the work in a task of its own that ends with its client.
    fn start(&self, work: Work) -> Result<ReceiverStream<Result<v1::SetupEvent, Status>>, Failure> {
        self.0.check_open()?;
        let (events, stream) = mpsc::channel(MAX_LINES);
        let daemon = Arc::clone(&self.0);
        self.0.runs.spawn(async move {
            let built = tokio::select! {
                built = work.carry_out(&daemon, &events) => built,
                // The client went: a build that nobody waits for is given up.
                () = events.closed() => return,
                () = daemon.cancel_runs.cancelled() => Err(Failure::new(
                    FailureKind::ShuttingDown,
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
    type BuildStream = Self::SetupStream;

    async fn setup(
        &self,
        request: Request<v1::SetupRequest>,
    ) -> Result<Response<Self::SetupStream>, Status> {
        let work =
            principal(&request).and_then(|_| Work::of_setup(request.get_ref(), &self.0.config));
        work.and_then(|work| self.start(work))
            .map(Response::new)
            .map_err(|failure| status::from_failure(&failure))
    }

    async fn build(
        &self,
        request: Request<v1::BuildRequest>,
    ) -> Result<Response<Self::BuildStream>, Status> {
        let work = principal(&request).and_then(|_| Work::of_build(request.get_ref()));
        work.and_then(|work| self.start(work))
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
                packages: image.packages.iter().map(ToString::to_string).collect(),
            })
            .collect();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }
}
