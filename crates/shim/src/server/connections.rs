//! All clients of a shim, whatever it is that it serves them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::event::PollFlags;

use super::connection::Connection;
use crate::protocol::{Answer, CONNECTIONS_MAX, Call, Event, Failure, Reply, Request};

pub(crate) struct Connections {
    listener: UnixListener,
    known: Vec<Connection>,
    /// Of the next one.
    next_id: u64,
}

/// Whose descriptor became ready.
#[derive(Clone, Copy)]
pub(crate) enum Client {
    /// Somebody wants to be one.
    New,
    /// By its place, which the next call may change.
    Known(usize),
}

/// A call, and what came with it.
pub(crate) struct Asked {
    pub(crate) connection: u64,
    pub(crate) request: Request,
    pub(crate) stdio: Option<[OwnedFd; 3]>,
}

impl Connections {
    pub(crate) fn new(listener: UnixListener) -> Self {
        Connections { listener, known: Vec::new(), next_id: 0 }
    }

    /// What is to be polled. `takes_calls`: of those who are there already.
    pub(crate) fn sources(
        &self,
        takes_calls: bool,
    ) -> impl Iterator<Item = (Client, BorrowedFd<'_>, PollFlags)> {
        let asked = if takes_calls { PollFlags::IN } else { PollFlags::empty() };
        let known = self.known.iter().enumerate().map(move |(index, connection)| {
            let more = if connection.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            (Client::Known(index), connection.as_fd(), asked | more)
        });
        let room = self.known.len() < CONNECTIONS_MAX;
        known.chain(room.then(|| (Client::New, self.listener.as_fd(), PollFlags::IN)))
    }

    pub(crate) fn accept(&mut self) {
        // A client that is gone again already is none.
        if let Ok((stream, _)) = self.listener.accept()
            && let Ok(connection) = Connection::new(stream, self.next_id)
        {
            self.next_id += 1;
            self.known.push(connection);
        }
    }

    /// Moves what can be moved of one; `Err` is the id of a client that is gone.
    pub(crate) fn serve(&mut self, index: usize, ready: PollFlags) -> Result<(), u64> {
        let Some(connection) = self.known.get_mut(index) else { return Ok(()) };
        let mut result = Ok(());
        if ready.contains(PollFlags::OUT) {
            result = connection.flush();
        }
        if result.is_ok() && ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            result = connection.receive();
        }
        self.unless_gone(index, result)
    }

    /// The next whole call of one; `Err` is the id of a client that is gone.
    pub(crate) fn next_call(&mut self, index: usize) -> Result<Option<Asked>, u64> {
        let Some(connection) = self.known.get_mut(index) else { return Ok(None) };
        let next = connection.next_request().map(|request| {
            let request = request?;
            let stdio = matches!(request.call, Call::Exec(_)).then(|| connection.take_stdio()).flatten();
            Some(Asked { connection: connection.id, request, stdio })
        });
        self.unless_gone(index, next)
    }

    fn unless_gone<T>(&mut self, index: usize, result: io::Result<T>) -> Result<T, u64> {
        result.map_err(|_| self.known.remove(index).id)
    }

    pub(crate) fn is_known(&self, id: u64) -> bool {
        self.known.iter().any(|known| known.id == id)
    }

    /// From now on it is told what happens.
    pub(crate) fn subscribe(&mut self, id: u64) {
        if let Some(connection) = self.find(id) {
            connection.subscribed = true;
        }
    }

    /// To whoever asked; who is gone asks again, or looks at the state.
    pub(crate) fn answer(&mut self, id: u64, request: u64, result: Result<Answer, Failure>) {
        if let Some(connection) = self.find(id)
            && connection.send(&Reply::Response { id: request, result }).is_err()
        {
            connection.close();
        }
    }

    /// Pushes an event to whoever subscribed. A client that cannot take it is let go by its next poll.
    pub(crate) fn publish(&mut self, event: Event) {
        let reply = Reply::Event(event);
        for connection in self.known.iter_mut().filter(|connection| connection.subscribed) {
            if connection.send(&reply).is_err() {
                connection.close();
            }
        }
    }

    /// Tells how far a container's output goes.
    pub(crate) fn hint(&mut self, container: &str, end: u64) {
        for connection in &mut self.known {
            if connection.hint(container, end).is_err() {
                connection.close();
            }
        }
    }

    pub(crate) fn forget(&mut self, container: &str) {
        for connection in &mut self.known {
            connection.forget(container);
        }
    }

    /// In a child, which has none.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }

    /// Sends what is left, waiting for it.
    pub(crate) fn finish(&mut self) {
        for connection in &mut self.known {
            connection.finish();
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Connection> {
        self.known.iter_mut().find(|known| known.id == id)
    }

    /// One that came by another way.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn add(&mut self, connection: Connection) {
        self.known.push(connection);
    }
}
