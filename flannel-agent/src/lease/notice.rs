//! What an operator must act on, in the words of this node.

/// Something that an operator must act on, or that has been put right. In Kubernetes it becomes an Event of the Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// A name for this kind of notice in CamelCase, such as `FlannelOnFloor`. Notices with the same reason are
    /// counted, and not written again each time.
    pub reason: &'static str,
    /// What has happened, to what, and what to do.
    pub message: String,
    /// How serious it is.
    pub severity: Severity,
}

/// How serious a notice is. The names are those of Kubernetes (core/v1 `Event.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing needs to be done.
    Normal,
    /// An operator must act.
    Warning,
}

impl Severity {
    /// Returns the name in Kubernetes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}
