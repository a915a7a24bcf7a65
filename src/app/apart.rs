//! A runtime of its own for the control plane, so that what backends ask for never takes the threads that clients' heartbeats need.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// A runtime that may be dropped anywhere. With hundreds of subscribers at thousands of events a second its queue is seconds long; sharing it, the
/// sweep came so late that it took the process for frozen, and moved every heartbeat's deadline. The system divides the processors between the threads
/// of both.
pub(super) struct Apart(Option<Runtime>);

impl Apart {
    /// With as many threads as there are processors.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        Builder::new_multi_thread().thread_name(name).enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        match &self.0 {
            Some(runtime) => runtime.spawn(task),
            // Only while it is being dropped.
            None => tokio::spawn(std::future::ready(())),
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting for its threads is not allowed among tasks; what is left on them was told to end before.
            runtime.shutdown_background();
        }
    }
}
