//! The parties: clients over WebSockets and backends over gRPC. Each writes down what itself did and saw.

pub mod commander;
pub mod consumer;
pub mod convert;
pub mod lister;
pub mod plain;
pub mod reliable;
pub mod sender;
pub mod socket;
pub mod subscriber;

use std::time::Duration;

use tokio::sync::watch;

use crate::files::Journal;
use crate::orders::{Order, Pulse};
use crate::world::{Address, Channels};

/// What every actor has.
#[derive(Clone)]
pub struct Actor {
    pub journal: Journal,
    pub rng: fastrand::Rng,
    pub address: watch::Receiver<Option<Address>>,
    pub orders: watch::Receiver<Order>,
    pub pulse: Pulse,
    pub channels: Channels,
}

impl Actor {
    pub fn order(&self) -> Order {
        *self.orders.borrow()
    }

    /// Waits for a process to talk to; None when it is time to end.
    pub async fn process(&mut self) -> Option<Address> {
        loop {
            if self.order() == Order::Quit {
                return None;
            }
            if let Some(address) = *self.address.borrow_and_update() {
                return Some(address);
            }
            tokio::select! {
                _ = self.address.changed() => {}
                _ = self.orders.changed() => {}
            }
        }
    }

    /// Waits until there is to be traffic; false when it is time to end.
    pub async fn busy(&mut self) -> bool {
        self.until(Order::busy).await
    }

    /// Waits for an order; false when it is time to end.
    pub async fn until(&mut self, wanted: impl Fn(Order) -> bool) -> bool {
        loop {
            let order = *self.orders.borrow_and_update();
            if order == Order::Quit {
                return false;
            }
            if wanted(order) {
                return true;
            }
            if self.orders.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Between two times, at random.
    pub fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from..=to))
    }
}
