//! Tasks that end with what they belong to.

use tokio::task::JoinHandle;

/// A task of the runtime. Dropping it ends the task, and closes what the task has open.
#[derive(Debug)]
#[must_use = "the task ends when this is dropped"]
pub struct Task(JoinHandle<()>);

impl Task {
    /// Starts it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_task_ends_when_it_is_dropped() {
        let (open, closed) = oneshot::channel::<()>();
        let task = Task::spawn(async move {
            let _open = open;
            pending::<()>().await;
        });
        drop(task);
        assert!(closed.await.is_err(), "it still has the channel open");
    }
}
