//! Ctrl-C: the first one asks the running work to stop, the next one leaves at once.

use crate::failure::INTERRUPTED;
use anyhow::Context;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Somebody looks at [`ASKED`] now.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// Ctrl-C was pressed while watched.
static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// While this lives, Ctrl-C is a wish that [`asked`](Watch::asked) reports; without it Ctrl-C ends the program.
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut installed = Ok(());
        INSTALL.call_once(|| {
            installed = ctrlc::set_handler(|| {
                if !WATCHED.load(SeqCst) || ASKED.swap(true, SeqCst) {
                    std::process::exit(INTERRUPTED.into());
                }
            });
        });
        installed.context("cannot listen to Ctrl-C")?;
        ASKED.store(false, SeqCst);
        WATCHED.store(true, SeqCst);
        Ok(Watch(()))
    }

    pub(crate) fn asked(&self) -> bool {
        ASKED.load(SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, SeqCst);
    }
}
