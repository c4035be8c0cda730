//! What the domain tells while it works. It knows nothing of terminals: `ui` renders events.

use std::sync::Arc;

/// How much of a piece of long work is done, in its own unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Countable things: rows, tables, files.
    Items,
    /// Seconds of a bounded wait.
    Seconds,
}

/// Something that happened in the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step has begun; `step` is a short phrase such as `restoring public.task`.
    Started {
        /// What is being done.
        step: String,
    },
    /// The step that runs has got this far. `total` is `None` where it cannot be known.
    Progress {
        /// The same phrase as in [`Event::Started`].
        step: String,
        /// How much is done.
        done: u64,
        /// How much there is.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// A step has ended well; `detail` may carry a number worth knowing.
    Finished {
        /// The same phrase as in [`Event::Started`].
        step: String,
        /// For example `70 rows, 1.2 MiB`.
        detail: String,
    },
    /// Something the user should know although the work goes on.
    Warning {
        /// What is the case.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A plain remark.
    Note {
        /// What is the case.
        message: String,
    },
}

/// Where events go. Cheap to clone; safe to call from any task or thread.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Events that call `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Events that nobody reads.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Emits any event.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }

    /// A step has begun.
    pub fn started(&self, step: impl Into<String>) {
        self.emit(Event::Started { step: step.into() });
    }

    /// The step has got this far.
    pub fn progress(&self, step: impl Into<String>, done: u64, total: Option<u64>, unit: Unit) {
        self.emit(Event::Progress {
            step: step.into(),
            done,
            total,
            unit,
        });
    }

    /// The step has ended well.
    pub fn finished(&self, step: impl Into<String>, detail: impl Into<String>) {
        self.emit(Event::Finished {
            step: step.into(),
            detail: detail.into(),
        });
    }

    /// Something the user should know.
    pub fn warning(&self, message: impl Into<String>) {
        self.emit(Event::Warning {
            message: message.into(),
            hint: None,
        });
    }

    /// Something the user should know, with what to do.
    pub fn warning_with_hint(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.emit(Event::Warning {
            message: message.into(),
            hint: Some(hint.into()),
        });
    }

    /// A plain remark.
    pub fn note(&self, message: impl Into<String>) {
        self.emit(Event::Note {
            message: message.into(),
        });
    }
}
