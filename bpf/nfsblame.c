/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What both sides need; tracer/compiler.py appends server.h and client.h as asked.
 * bcc rewrites map accesses only in the main file, so it also puts these files in
 * place of their #include lines.
 */
#include "records.h"
#include "histogram.h"
#include "maps.h"
#include "threads.h"
#include "kernel.h"
#include "op.h"
#include "paired.h"
#include "cpu.h"
#include "answers.h"
#include "crew.h"
#include "sched.h"
#include "fanotify.h"
#include "freeze.h"
#include "packets.h"
#include "dirty.h"
#include "uses.h"
#include "reclaim.h"
#include "calls.h"
#include "foreign.h"
#include "peek.h"
