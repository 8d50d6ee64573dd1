#![no_main]
//! Packets to a VPC's resolver, one without anybody to pass a question on to.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut answer = pin!(ferrogate_node::fuzzing::dns_answer(input));
    let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("nothing to wait for")
    };
    if let Some(answer) = answer {
        assert_eq!(answer.get(..2), input.get(..2), "the answer is to this question");
        assert!(answer[2] & 0x80 != 0, "an answer, not another question");
    }
});
