//! Connections: accepted, bounded, and brought to an end.

use crate::app::{App, router};
use crate::{NamedModel, ServerOptions, Tls};
use axum::Router;
use bitnet_inference::Engine;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

/// A request's head must be there after this time; an idle connection is closed after it.
const HEAD_LIMIT: Duration = Duration::from_secs(60);

/// TLS must be agreed on after this time.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Threads that read, tokenise and write; those that compute are the engine's.
const WORKERS: usize = 2;

/// Threads for long tokenising and embeddings.
const COMPUTING: usize = 4;

/// Why a server does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened to.
    #[error("cannot listen to {address}: {source}")]
    Listen {
        /// What was asked for.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The runtime or its signals.
    #[error("cannot start the server: {0}")]
    Start(#[from] io::Error),
    /// The only model.
    #[error("the model {model:?} cannot be served: {source}")]
    Model {
        /// Its name.
        model: String,
        /// What is wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A model that never fits.
    #[error("the model {model:?} needs {bytes} bytes, and the memory budget is {budget}")]
    Budget {
        /// Its name.
        model: String,
        /// What it needs.
        bytes: u64,
        /// What all may need together.
        budget: u64,
    },
    /// A name that does not tell which.
    #[error("two models have the name {0:?}")]
    TwoModels(String),
    /// Nothing to serve.
    #[error("there is no model to serve")]
    NoModel,
    /// An origin that is none.
    #[error("the origin {0:?} has not the form https://name or https://name:port")]
    Origin(String),
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    router: Router,
}

impl Server {
    /// Listens, with one model. Port 0 takes a free one.
    ///
    /// # Errors
    /// The address is taken or not this machine's; wrong options.
    pub fn bind(
        engine: Arc<Engine>,
        address: impl ToSocketAddrs + std::fmt::Debug,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let (models, options) = options.one(engine);
        Self::bind_models(models, u64::MAX, address, options)
    }

    /// Listens, with models that are opened when requests ask for them and take `budget` bytes together at most. Their names
    /// and templates count instead of those in `options`. Requests that name none mean the first.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind); a model that does not fit, a name that two have.
    pub fn bind_models(
        models: Vec<NamedModel>,
        budget: u64,
        address: impl ToSocketAddrs + std::fmt::Debug,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let refused = |source| ServerError::Listen { address: format!("{address:?}").replace('"', ""), source };
        let listener = TcpListener::bind(&address).map_err(refused)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let app = Arc::new(App::new(models, budget, options, address.ip().is_loopback())?);
        let router = router(&app)?;
        Ok(Server { listener, address, app, router })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until Ctrl-C or SIGTERM, then finishes what was begun. A second signal ends at once.
    ///
    /// # Errors
    /// No threads, no signals.
    pub fn run(self) -> Result<(), ServerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(COMPUTING)
            .thread_name("bitnet-http")
            .enable_all()
            .build()?;
        let result = runtime.block_on(async {
            let (stop, stopped) = mpsc::channel(2);
            let signals = signals(stop)?;
            tokio::spawn(signals);
            self.serve(stopped).await
        });
        runtime.shutdown_background();
        result
    }

    /// Serves inside a runtime until `stop` gives something or is closed, then finishes what was begun. When `stop` gives
    /// something again, it ends at once.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub async fn serve(self, mut stop: mpsc::Receiver<()>) -> Result<(), ServerError> {
        let Server { listener, app, router, .. } = self;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(app.options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let acceptor = app.options.tls.as_ref().map(Tls::acceptor);
        let mut handshakes = JoinSet::new();
        let mut connections = Connections { router, graceful: GracefulShutdown::new(), tasks: JoinSet::new() };
        loop {
            let accepted = async {
                // the semaphore is never closed
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, listener.accept().await)
            };
            let (place, stream) = tokio::select! {
                _ = stop.recv() => break,
                Some(_) = connections.tasks.join_next(), if !connections.tasks.is_empty() => continue,
                Some(agreed) = handshakes.join_next(), if !handshakes.is_empty() => {
                    if let Ok(Some((stream, guest))) = agreed {
                        connections.add(stream, guest);
                    }
                    continue;
                }
                (place, accepted) = accepted => match accepted {
                    Ok((stream, _)) => (place, stream),
                    Err(error) => {
                        // out of file descriptors, or a connection that was gone at once: neither is the end
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let _ = stream.set_nodelay(true); // tokens are small and must not wait for one another
            let guest = Guest { _open: Open::new(&app), _place: place };
            match &acceptor {
                None => connections.add(stream, guest),
                Some(acceptor) => {
                    let agreed = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream));
                    handshakes.spawn(async move {
                        match agreed.await {
                            Ok(Ok(stream)) => return Some((stream, guest)),
                            Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                            Err(_) => tracing::debug!("no TLS in time"),
                        }
                        None
                    });
                }
            }
        }
        drop((listener, handshakes)); // nothing was asked yet
        let Connections { graceful, mut tasks, .. } = connections;
        app.draining.store(true, Relaxed);
        tracing::info!(connections = tasks.len(), "stopping: what was begun is finished");
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(app.options.drain_limit) => tracing::warn!("not all answers were finished in time"),
            Some(()) = stop.recv() => tracing::warn!("told to stop at once"),
        }
        tasks.shutdown().await;
        #[cfg(feature = "otel")]
        if let Some(telemetry) = app.options.telemetry.clone() {
            let _ = tokio::task::spawn_blocking(move || telemetry.end()).await; // it cannot fail
        }
        Ok(())
    }
}

/// Connections that are served.
struct Connections {
    router: Router,
    graceful: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl Connections {
    fn add(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, guest: Guest) {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(guest);
        });
    }
}

/// What a connection holds while it lives.
struct Guest {
    _open: Open,
    _place: Option<OwnedSemaphorePermit>,
}

/// An open connection, counted while it lives.
struct Open(Arc<App>);

impl Open {
    fn new(app: &Arc<App>) -> Self {
        app.http.connections.fetch_add(1, Relaxed);
        Open(Arc::clone(app))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.http.connections.fetch_sub(1, Relaxed);
    }
}

/// Passes on Ctrl-C and SIGTERM.
fn signals(stop: mpsc::Sender<()>) -> io::Result<impl Future<Output = ()> + Send> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?
    };
    Ok(async move {
        loop {
            #[cfg(unix)]
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            #[cfg(not(unix))]
            let _ = tokio::signal::ctrl_c().await;
            if stop.send(()).await.is_err() {
                return;
            }
        }
    })
}
