//! What waits for its turn to be spawned: jobs before services.
//!
//! Starts may be a thousand at a time, and a probe or a stop command behind them would be late for that. Jobs cannot keep
//! starts waiting: a service has one at a time, and that ends with its timeout. Pure; the keeper's.

use std::collections::VecDeque;

#[derive(Debug)]
pub struct Queue<T> {
    jobs: VecDeque<T>,
    services: VecDeque<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { jobs: VecDeque::new(), services: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    pub fn push_job(&mut self, job: T) {
        self.jobs.push_back(job);
    }

    pub fn push_service(&mut self, service: T) {
        self.services.push_back(service);
    }

    pub fn pop(&mut self) -> Option<T> {
        self.jobs.pop_front().or_else(|| self.services.pop_front())
    }

    /// The first job that `is_it`, which does not wait any more.
    pub fn take_job(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.jobs.iter().position(is_it)?;
        self.jobs.remove(at)
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.services.is_empty()
    }

    pub fn clear(&mut self) {
        self.jobs.clear();
        self.services.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_does_not_wait_for_a_thousand_starts() {
        let mut queue = Queue::default();
        (0..1000).for_each(|start| queue.push_service(start));
        assert_eq!(queue.pop(), Some(0));
        queue.push_job(5000);
        queue.push_job(5001);
        queue.push_job(5002);
        assert_eq!(queue.take_job(|&job| job == 5001), Some(5001));
        assert_eq!(queue.take_job(|&job| job == 1), None, "a start is no job");
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(5000), Some(5002), Some(1)]);
        queue.clear();
        assert!(queue.is_empty() && queue.pop().is_none());
    }
}
