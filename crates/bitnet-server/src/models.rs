//! The models that are served by name. With several, each is opened when it is first asked for, and closed when another one
//! needs its memory.
//!
//! One model is opened at a time, in the order in which requests came for those that are closed. Room is made by closing
//! models that nobody uses, the one whose last request came longest ago first. When all are in use, that one's requests are
//! finished, and new ones for it wait until it is opened again: so none is kept out for ever by another that is busy.

use crate::api_error::ApiError;
use crate::model::Model;
use crate::server::ServerError;
use axum::http::StatusCode;
use bitnet_inference::{Engine, Scheduler};
use bitnet_models::ChatTemplate;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

/// A model that was opened.
#[derive(Clone)]
pub struct Opened {
    /// What computes.
    pub engine: Arc<Engine>,
    /// Chat template to use instead of the model's.
    pub template: Option<Arc<ChatTemplate>>,
}

/// Opens a model, as often as it is closed again.
pub type Open = dyn Fn() -> Result<Opened, Box<dyn Error + Send + Sync>> + Send + Sync;

/// Reads what can be read of a model while there is no room for it.
pub type Check = dyn Fn() -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync;

/// A model that is served by its name, and what can be said of it while it is closed.
pub struct NamedModel {
    /// In requests and answers.
    pub name: String,
    /// Bytes that it takes while it is open ([`MemoryPlan::total`](bitnet_models::MemoryPlan::total)).
    pub bytes: u64,
    /// Positions that prompt and answer of a request have.
    pub context: usize,
    /// Requests that are computed together.
    pub parallel: usize,
    /// It has a chat template.
    pub chat: bool,
    /// Says whether it could be opened, without its weights: asked before other models are closed for it.
    pub check: Box<Check>,
    /// Opens it.
    pub open: Box<Open>,
}

impl fmt::Debug for NamedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NamedModel { name, bytes, context, parallel, chat, check: _, open: _ } = self;
        let mut out = f.debug_struct("NamedModel");
        out.field("name", name).field("bytes", bytes).field("context", context);
        out.field("parallel", parallel).field("chat", chat).finish_non_exhaustive()
    }
}

/// All models of a server.
pub(crate) struct Models {
    named: Vec<NamedModel>,
    /// Bytes that open models may take together.
    budget: u64,
    /// Requests that may wait: in each model's queue, and for models to be opened.
    queue: usize,
    slots: Mutex<Vec<Slot>>,
    /// A model was opened, or a request ended.
    changed: Arc<Notify>,
    /// Whose turn it is to open one.
    turn: tokio::sync::Mutex<()>,
    /// Places to wait in for one to be opened.
    places: Semaphore,
}

/// Where a model stands.
struct Slot {
    state: State,
    /// How often it was opened.
    loads: u64,
    /// When it was last asked for.
    used: Instant,
}

enum State {
    Closed,
    Opening,
    Open(Arc<Model>),
    /// Open, and takes no more requests.
    Leaving(Arc<Model>),
}

impl Slot {
    fn model(&self) -> Option<&Arc<Model>> {
        match &self.state {
            State::Open(model) | State::Leaving(model) => Some(model),
            State::Closed | State::Opening => None,
        }
    }

    /// Open, and no request has it: only requests that have it could pass it on.
    fn is_idle(&self) -> bool {
        self.model().is_some_and(|model| Arc::strong_count(model) == 1)
    }
}

/// An open model in the hands of a request. It stays open while there is one.
#[derive(Clone)]
pub(crate) struct Lease {
    model: Arc<Model>,
    _bell: Bell, // after the model: fields are dropped in order
}

/// Rings when it is dropped.
#[derive(Clone)]
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl Deref for Lease {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

impl Lease {
    /// Runs long computations (tokenising, templates) where they hold up no connection.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Model) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let lease = self.clone();
        let failed = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, None, "the computation failed");
        tokio::task::spawn_blocking(move || work(&lease)).await.map_err(failed)?
    }
}

/// What was said of a model, how often it was opened, and the model itself if it is open.
pub(crate) type Seen<'m> = (&'m NamedModel, u64, Option<&'m Model>);

/// What stands between a request and its model.
enum Way {
    Free(Lease),
    /// There is room, and it is taken. What was closed for it has to be dropped.
    Room(Vec<Arc<Model>>),
    /// Others have to end before.
    Wait(Vec<Arc<Model>>),
}

impl Models {
    /// Takes models into service. One alone is opened now, and stays.
    pub(crate) fn new(named: Vec<NamedModel>, budget: u64, queue: usize) -> Result<Arc<Self>, ServerError> {
        for (nth, NamedModel { name, bytes, .. }) in named.iter().enumerate() {
            if named[..nth].iter().any(|other| other.name == *name) {
                return Err(ServerError::TwoModels(name.clone()));
            }
            if *bytes > budget {
                return Err(ServerError::Budget { model: name.clone(), bytes: *bytes, budget });
            }
        }
        let slot = || Slot { state: State::Closed, loads: 0, used: Instant::now() };
        let models = Arc::new(Models {
            slots: Mutex::new(named.iter().map(|_| slot()).collect()),
            budget,
            queue,
            changed: Arc::new(Notify::new()),
            turn: tokio::sync::Mutex::new(()),
            places: Semaphore::new(queue.clamp(1, Semaphore::MAX_PERMITS)),
            named,
        });
        match &models.named[..] {
            [] => return Err(ServerError::NoModel),
            [one] => {
                let failed = |source| ServerError::Model { model: one.name.clone(), source };
                drop(models.open(0).map_err(failed)?);
            }
            _ => {}
        }
        Ok(models)
    }

    /// There is one model only.
    pub(crate) fn is_one(&self) -> bool {
        self.named.len() == 1
    }

    /// The model of this name. Requests without one mean the first.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<usize, ApiError> {
        let Some(name) = name else { return Ok(0) };
        self.named.iter().position(|model| model.name == name).ok_or_else(|| {
            let names: Vec<_> = self.named.iter().map(|model| format!("{:?}", model.name)).collect();
            let are = if self.is_one() { "is" } else { "are" };
            let message = format!("the model {name:?} does not exist here; there {are} {}", names.join(", "));
            ApiError::new(StatusCode::NOT_FOUND, Some("model_not_found"), message).of("model")
        })
    }

    /// The model at this place, opened if it is not.
    pub(crate) async fn get(self: &Arc<Self>, index: usize, deadline: Instant) -> Result<Lease, ApiError> {
        if let Some(lease) = self.lease(index) {
            return Ok(lease);
        }
        let busy = |_| ApiError::busy("too many requests are waiting for a model already", Duration::from_secs(5));
        let _place = self.places.try_acquire().map_err(busy)?;
        timeout_at(deadline, self.wait(index)).await.map_err(|_| ApiError::time_limit())?
    }

    async fn wait(self: &Arc<Self>, index: usize) -> Result<Lease, ApiError> {
        let mut turn = pin!(self.turn.lock());
        let _turn = loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(lease) = self.lease(index) {
                return Ok(lease); // others opened it
            }
            tokio::select! {
                turn = &mut turn => break turn,
                () = changed => {}
            }
        };
        let failed = |error: &dyn fmt::Display| {
            let name = &self.named[index].name;
            tracing::error!(model = %name, %error, "cannot be opened"); // paths are not for clients
            let message = format!("the model {name:?} cannot be opened; the server's log says why");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Some("model_not_opened"), message)
        };
        let is_closed = matches!(self.slots()[index].state, State::Closed);
        if is_closed {
            let models = Arc::clone(self);
            let checked = tokio::task::spawn_blocking(move || (models.named[index].check)());
            checked.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        }
        let closed = loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.make_way(index) {
                Way::Free(lease) => return Ok(lease),
                Way::Room(closed) => break closed,
                Way::Wait(closed) => {
                    let _ = tokio::task::spawn_blocking(move || drop(closed)).await; // it cannot fail
                    changed.await;
                }
            }
        };
        let models = Arc::clone(self);
        // goes on when the client goes away: somebody else may wait for it
        let opened = tokio::task::spawn_blocking(move || {
            drop(closed);
            let begin = Instant::now();
            let seconds = || begin.elapsed().as_secs_f64();
            models.open(index).inspect(|lease| tracing::info!(model = %lease.name, seconds = seconds(), "opened"))
        });
        opened.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    /// Makes room for a model, as far as that goes without waiting. For those whose turn it is.
    fn make_way(&self, index: usize) -> Way {
        let mut slots = self.slots();
        let slot = &mut slots[index];
        match std::mem::replace(&mut slot.state, State::Opening) {
            // it was to leave for somebody who went away
            State::Open(model) | State::Leaving(model) => {
                slot.state = State::Open(Arc::clone(&model));
                return Way::Free(self.lend(slot, model));
            }
            // by somebody who went away
            State::Opening => return Way::Wait(Vec::new()),
            State::Closed => slot.state = State::Closed,
        }
        let mut closed = Vec::new();
        loop {
            let taken = slots.iter().zip(&self.named).filter(|(slot, _)| !matches!(slot.state, State::Closed));
            let taken = taken.fold(self.named[index].bytes, |sum, (_, model)| sum.saturating_add(model.bytes));
            if taken <= self.budget {
                slots[index].state = State::Opening;
                return Way::Room(closed);
            }
            let Some(idle) = slots.iter_mut().filter(|slot| slot.is_idle()).min_by_key(|slot| slot.used) else { break };
            if let State::Open(model) | State::Leaving(model) = std::mem::replace(&mut idle.state, State::Closed) {
                tracing::info!(model = %model.name, "closed");
                closed.push(model);
            }
        }
        if !slots.iter().any(|slot| matches!(slot.state, State::Leaving(_)))
            && let Some(slot) = slots.iter_mut().filter(|slot| slot.model().is_some()).min_by_key(|slot| slot.used)
            && let State::Open(model) = std::mem::replace(&mut slot.state, State::Opening)
        {
            slot.state = State::Leaving(model);
        }
        Way::Wait(closed)
    }

    /// Opens the model at this place, for which there is room.
    fn open(&self, index: usize) -> Result<Lease, Box<dyn Error + Send + Sync>> {
        let NamedModel { name, open, .. } = &self.named[index];
        // whatever happens, nobody must wait for ever
        let opened = catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err("opening it panicked".into()));
        let opened = opened.and_then(|Opened { engine, template }| {
            let scheduler = Scheduler::start(engine, self.queue)?;
            Ok(Arc::new(Model { name: name.clone(), scheduler, template }))
        });
        let mut slots = self.slots();
        let slot = &mut slots[index];
        let lease = match opened {
            Ok(model) => {
                slot.state = State::Open(Arc::clone(&model));
                slot.loads += 1;
                Ok(self.lend(slot, model))
            }
            Err(error) => {
                slot.state = State::Closed;
                Err(error)
            }
        };
        drop(slots);
        self.changed.notify_waiters();
        lease
    }

    /// The model at this place, if it is open for new requests.
    fn lease(&self, index: usize) -> Option<Lease> {
        let mut slots = self.slots();
        let slot = &mut slots[index];
        match &slot.state {
            State::Open(model) => {
                let model = Arc::clone(model);
                Some(self.lend(slot, model))
            }
            _ => None,
        }
    }

    fn lend(&self, slot: &mut Slot, model: Arc<Model>) -> Lease {
        slot.used = Instant::now();
        Lease { model, _bell: Bell(Arc::clone(&self.changed)) }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all models, while none is opened or closed.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Seen<'_>]) -> T) -> T {
        let slots = self.slots();
        let all = self.named.iter().zip(&*slots);
        let all: Vec<_> = all.map(|(named, slot)| (named, slot.loads, slot.model().map(Arc::as_ref))).collect();
        look(&all)
    }

    /// Requests that wait for a model to be opened.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.clamp(1, Semaphore::MAX_PERMITS).saturating_sub(self.places.available_permits())
    }
}
