/** What a table must be to be loaded: every refusal, with the line and field that it names. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import type { BlockDevice } from '../../src/block/device.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { TableError, type TableErrorCode } from '../../src/dm/errors.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { error, linear, memoryDevices, striped, zero } from './devices.ts';

const devices = memoryDevices(3, 100);

function resolve(name: string): BlockDevice {
  const device = devices.get(name);
  if (device === undefined) throw new Error('not found');
  return device;
}

function refused(table: unknown, code: TableErrorCode, line: number, field: string): TableError {
  const volume = new Volume('vg/lv', { targets });
  let thrown: unknown;
  try {
    volume.load(table as Table, resolve);
  } catch (caught) {
    thrown = caught;
  }
  assert(thrown instanceof TableError, `${code} expected, got ${String(thrown)}`);
  assert.deepEqual({ code: thrown.code, line: thrown.place.line, field: thrown.field }, { code, line, field });
  assert.equal(volume.status().hasInactiveTable, false);
  return thrown;
}

function linearOf(params: unknown): Table {
  return [{ start: 0, length: 8, target: 'linear', params }];
}

function stripedOf(params: unknown, length = 24): Table {
  return [{ start: 0, length, target: 'striped', params }];
}

describe('loading a table', () => {
  test('lines tile the volume in order', () => {
    refused([], 'EMPTY_TABLE', 0, '');
    refused('0 8 zero', 'BAD_FIELD', 0, 'table');
    refused([null], 'BAD_LINE', 1, '');
    refused([zero(1, 8)], 'GAP', 1, 'start');
    refused([zero(0, 8), zero(9, 8)], 'GAP', 2, 'start');
    refused([zero(0, 8), zero(7, 8)], 'OVERLAP', 2, 'start');
    refused([zero(8, 8), zero(0, 8)], 'GAP', 1, 'start');
    refused([zero(0, 0)], 'BAD_FIELD', 1, 'length');
    refused([zero(0, 1.5)], 'BAD_FIELD', 1, 'length');
    refused([zero(0, Number.NaN)], 'BAD_FIELD', 1, 'length');
    refused([zero(-1, 8)], 'BAD_FIELD', 1, 'start');
    refused([{ start: 0, target: 'zero' }], 'MISSING_FIELD', 1, 'length');
    refused([zero(0, 2 ** 43), zero(2 ** 43, 2 ** 43)], 'TOO_LARGE', 2, 'length');
  });

  test('targets are known and their parameters checked', () => {
    refused([{ start: 0, length: 8, target: 'thin', params: {} }], 'UNKNOWN_TARGET', 1, 'target');
    refused([{ start: 0, length: 8, params: {} }], 'MISSING_FIELD', 1, 'target');
    refused(linearOf('a 0'), 'BAD_FIELD', 1, 'params');
    refused(linearOf([]), 'BAD_FIELD', 1, 'params');
    refused(linearOf(undefined), 'MISSING_FIELD', 1, 'params');
    refused(linearOf({ offset: 0 }), 'MISSING_FIELD', 1, 'device');
    refused(linearOf({ device: '', offset: 0 }), 'BAD_FIELD', 1, 'device');
    refused(linearOf({ device: 'a', offset: '0' }), 'BAD_FIELD', 1, 'offset');
    refused(linearOf({ device: 'a', offset: -8 }), 'BAD_FIELD', 1, 'offset');
    refused(linearOf({ device: 'a', offset: 0, stripes: 2 }), 'UNKNOWN_FIELD', 1, 'stripes');
    refused([{ start: 0, length: 8, target: 'zero', params: { fill: 1 } }], 'UNKNOWN_FIELD', 1, 'fill');
    refused([{ start: 0, length: 8, target: 'error', params: 'x' }], 'BAD_FIELD', 1, 'params');
  });

  test('stripes follow the rules of the kernel', () => {
    const pair = [
      { device: 'a', offset: 0 },
      { device: 'b', offset: 0 },
    ];
    refused(stripedOf({ chunkSize: 4, stripes: [] }), 'BAD_FIELD', 1, 'stripes');
    refused(stripedOf({ chunkSize: 4 }), 'MISSING_FIELD', 1, 'stripes');
    refused(stripedOf({ chunkSize: 0, stripes: pair }), 'BAD_FIELD', 1, 'chunkSize');
    refused(stripedOf({ chunkSize: 2 ** 32, stripes: pair }), 'BAD_FIELD', 1, 'chunkSize');
    refused(stripedOf({ chunkSize: 4, stripes: [pair[0], { device: 'b' }] }), 'MISSING_FIELD', 1, 'stripes[1].offset');
    refused(
      stripedOf({ chunkSize: 4, stripes: [pair[0], { device: 'b', offset: 0, x: 1 }] }),
      'UNKNOWN_FIELD',
      1,
      'stripes[1].x',
    );
    refused(stripedOf({ chunkSize: 4, stripes: pair }, 25), 'BAD_LENGTH', 1, 'length');
    refused(stripedOf({ chunkSize: 8, stripes: pair }, 24), 'BAD_LENGTH', 1, 'length');
    // 100 sectors of b are one too few for 96 from sector 5.
    refused(
      [
        striped(0, 192, 3, [
          ['a', 0],
          ['b', 5],
        ]),
      ],
      'DEVICE_TOO_SMALL',
      1,
      'stripes[1].device',
    );
  });

  test('devices exist and are large enough', () => {
    refused([zero(0, 8), linear(8, 8, 'nope', 0)], 'NO_DEVICE', 2, 'device');
    const thrown = refused([linear(0, 8, 'a', 93)], 'DEVICE_TOO_SMALL', 1, 'device');
    assert.equal(
      thrown.message,
      "vg/lv: table line 1 (linear), device: sectors 93 to 101 of a lie outside the device's 100 sectors",
    );
    refused([linear(0, 2 ** 43, 'a', 2 ** 43)], 'DEVICE_TOO_SMALL', 1, 'device');
  });

  test('no volume is part of itself, near or far', async () => {
    const volumes = new Map(['x', 'y', 'z'].map((name) => [name, new Volume(name, { targets })]));
    const get = (name: string): BlockDevice => volumes.get(name) ?? resolve(name);
    const [x, y, z] = [...volumes.values()] as [Volume, Volume, Volume];
    x.load([linear(0, 50, 'a', 0)], get);
    x.resume();
    y.load([linear(0, 50, 'x', 0)], get);
    y.resume();
    z.load([linear(0, 50, 'y', 0)], get);
    for (const name of ['x', 'y', 'z']) {
      const load = (): void => x.load([linear(0, 10, name, 0)], get);
      // z has only an inactive table and no bytes yet; it counts all the same.
      assert.throws(load, { code: 'RECURSION' }, name);
    }
    y.load([linear(0, 50, 'a', 0)], get);
    await y.clear();
    assert.throws(() => x.load([linear(0, 10, 'y', 0)], get), { code: 'RECURSION' });
  });

  test('a refused table leaves what was there', async () => {
    const volume = new Volume('vg/lv', { targets });
    volume.load([linear(0, 8, 'a', 0)], resolve);
    volume.resume();
    volume.load([linear(0, 16, 'a', 0)], resolve);
    assert.throws(() => volume.load([linear(0, 800, 'a', 0)], resolve), { code: 'DEVICE_TOO_SMALL' });
    assert.equal(volume.tableText(), '0 8 linear a 0\n');
    assert.equal(volume.tableText('inactive'), '0 16 linear a 0\n');
    await volume.suspend();
    volume.resume();
    assert.equal(volume.limits.sizeBytes, 16 * 512);
  });

  test('any JSON gives a table or a TableError', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.jsonValue(),
          fc.array(
            fc.record(
              {
                start: fc.oneof(fc.constantFrom(0, 8, 16), fc.jsonValue()),
                length: fc.oneof(fc.constant(8), fc.jsonValue()),
                target: fc.oneof(fc.constantFrom('linear', 'striped', 'zero', 'error'), fc.jsonValue()),
                params: fc.oneof(
                  fc.record({ device: fc.constantFrom('a', 'q', 1), offset: fc.jsonValue() }),
                  fc.record({ chunkSize: fc.constantFrom(1, 8, 0), stripes: fc.jsonValue() }),
                  fc.jsonValue(),
                ),
              },
              { requiredKeys: [] },
            ),
            { maxLength: 3 },
          ),
        ),
        (table) => {
          try {
            new Volume('vg/lv', { targets }).load(table as Table, resolve);
          } catch (caught) {
            assert(caught instanceof TableError, String(caught));
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('table and status text', () => {
  test('are those of dmsetup, with names for devices', async () => {
    const volume = new Volume('vg/lv', { targets });
    volume.load(
      [
        linear(0, 8, 'a', 3),
        zero(8, 2),
        striped(10, 12, 2, [
          ['a', 0],
          ['b', 4],
          ['c', 8],
        ]),
        error(22, 1),
      ],
      resolve,
    );
    volume.resume();
    assert.equal(volume.tableText(), '0 8 linear a 3\n8 2 zero \n10 12 striped 3 2 a 0 b 4 c 8\n22 1 error \n');
    assert.equal(volume.statusText(), '0 8 linear \n8 2 zero \n10 12 striped 3 a b c 1 AAA\n22 1 error \n');
    await volume.close();
  });

  test('mangle names that are more than a word', () => {
    const volume = new Volume('vg/lv', { targets });
    const device = new MemoryDevice({ sizeBytes: 4096 });
    volume.load([linear(0, 8, '/tmp/my disk\\1', 0)], () => device);
    assert.equal(volume.tableText('inactive'), '0 8 linear /tmp/my\\x20disk\\x5c1 0\n');
  });
});

describe('limits of a volume', () => {
  test('are the coarsest of its devices, and any byte range', () => {
    const small = new MemoryDevice({ sizeBytes: 1 << 20, canDiscard: false });
    const large = new MemoryDevice({ sizeBytes: 1 << 20, logicalBlockSize: 4096, requestAlignment: 4096 });
    const volume = new Volume('vg/lv', { targets });
    assert.equal(volume.limits.sizeBytes, 0);
    volume.load([linear(0, 8, 's', 0), linear(8, 3, 'l', 5)], (name) => (name === 's' ? small : large));
    volume.resume();
    assert.deepEqual(volume.limits, {
      sizeBytes: 11 * 512,
      logicalBlockSize: 4096,
      physicalBlockSize: 4096,
      requestAlignment: 1,
      readOnly: false,
      canDiscard: true,
      discardGranularity: 4096,
    });
  });
});
