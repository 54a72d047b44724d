//! What a call costs, in bytes that it allocates: all of them, also those that it gives back. It does not depend on
//! the machine and what else that is doing, and what takes long in the parsers allocates.

#![expect(unsafe_code, reason = "JUSTIFICATION: only a global allocator can count allocations")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: usize) {
    ALLOCATED.set(ALLOCATED.get().wrapping_add(bytes));
}

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract; the counter
// is a constant of its thread that neither allocates nor is ever dropped.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from here, and so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as for `dealloc`; the caller's promises about `size` are those that `System` asks for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `call` returns, and the bytes that it allocated on this thread.
pub fn allocated_by<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATED.get();
    let returned = call();
    (returned, ALLOCATED.get().wrapping_sub(before))
}
