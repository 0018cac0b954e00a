// What the fake plugin is told to do, in memory of the test's.
#pragma once

enum { NOTHING, THROW, THROW_INT, ABORT, HANG, LIE, WRONG };

struct Control {
    char function[64]; // "buffer.set_tensor"
    char without[64];  // a function that get_proc_address does not have
    int how;
    int hits;   // how often that function was called since
    int device; // on which device it fails, where it is asked of one
    int opened; // a bit for each device that was ever initialised
};
