/**
 * libnbd's example programs against the daemon: one connection and many, requests in batches, in threads, and by the event loop.
 *
 * Left out: those that start a server of their own (connect-command, open-qcow2), ask people (list-exports), copy by libev, or need no server
 * of ours (encryption, userfault-map, connect-benchmark).
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { libnbdProgram } from '../helpers/nbd-programs.ts';
import { mustRun } from '../helpers/run.ts';
import { makeGroup } from './small-group.ts';

/** Programs by what they take: the socket, or an URI. What one prints of a server that works, where it prints anything. */
const EXAMPLES: readonly (readonly ['socket' | 'uri', string, RegExp?])[] = [
  ['socket', 'get-size', /33554432/],
  ['socket', 'fetch-first-sector'],
  ['socket', 'server-flags', /can multi-conn = true|multi.conn/i],
  ['socket', 'reads-and-writes'],
  ['socket', 'aio-connect-read'],
  ['socket', 'threaded-reads-and-writes'],
  ['socket', 'batched-read-write'],
  ['uri', 'connect-uri', /33554432/],
  ['uri', 'strict-structured-reads', /totals:/],
];

describe('examples of libnbd', () => {
  let folder = '';
  let daemon: RunningDaemon;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-examples-'));
    daemon = await startDaemon([await makeGroup(folder, [{ name: 'lv', size: '32m' }])]);
  });
  after(async () => {
    assert.equal(await daemon.stop(), 0, daemon.log());
    await rm(folder, { recursive: true, force: true });
  });

  for (const [takes, name, says = /^/] of EXAMPLES)
    test(name, async () => {
      const program = await libnbdProgram(`examples/${name}`, join(folder, name));
      assert.match(await mustRun(program, [takes === 'uri' ? daemon.uri('vg/lv') : daemon.socket]), says);
    });
});
