/** Every target, alone and mixed, on devices with small and large blocks, through the conformance suite. */
import type { TargetType } from '../../src/dm/target.ts';
import { targetRegistry } from '../../src/dm/target.ts';
import { RequestPool, type IoRequest, type RequestOwner } from '../../src/block/request.ts';
import type { BlockDevice } from '../../src/block/device.ts';
import type { Layer } from '../../src/dm/table.ts';
import { error, linear, memoryDevices, mirror, striped, zero } from './devices.ts';
import { targetSuite } from './target-suite.ts';

const LARGE_BLOCKS = { logicalBlockSize: 4096, requestAlignment: 4096 };

targetSuite('linear', () => ({
  table: [linear(0, 64, 'a', 3)],
  grown: [linear(0, 64, 'a', 3), linear(64, 40, 'a', 67)],
  devices: memoryDevices(1, 256),
  border: 64 * 512,
}));

targetSuite('linear, several devices', () => ({
  table: [linear(0, 8, 'a', 0), linear(8, 5, 'b', 100), linear(13, 30, 'a', 8)],
  grown: [linear(0, 8, 'a', 0), linear(8, 5, 'b', 100), linear(13, 30, 'a', 8), linear(43, 50, 'c', 1)],
  devices: memoryDevices(3, 256),
  border: 8 * 512,
}));

targetSuite('linear, 4096-byte blocks and lines that share them', () => ({
  table: [linear(0, 11, 'a', 3), linear(11, 30, 'b', 1), linear(41, 7, 'a', 14)],
  grown: [linear(0, 11, 'a', 3), linear(11, 30, 'b', 1), linear(41, 7, 'a', 14), linear(48, 20, 'a', 21)],
  devices: memoryDevices(2, 256, LARGE_BLOCKS),
  border: 4096,
}));

targetSuite('striped, 3 stripes of 3 sectors', () => ({
  table: [
    striped(0, 90, 3, [
      ['a', 0],
      ['b', 7],
      ['c', 100],
    ]),
  ],
  grown: [
    striped(0, 90, 3, [
      ['a', 0],
      ['b', 7],
      ['c', 100],
    ]),
    striped(90, 80, 8, [
      ['b', 60],
      ['a', 60],
    ]),
  ],
  devices: memoryDevices(3, 256),
  border: 3 * 512,
}));

targetSuite('striped, one stripe', () => ({
  table: [striped(0, 64, 8, [['a', 0]])],
  grown: [striped(0, 128, 8, [['a', 0]])],
  devices: memoryDevices(1, 256),
  border: 8 * 512,
}));

targetSuite('striped, 5 stripes of 7 sectors, 4096-byte blocks that they share', () => ({
  table: [
    striped(0, 140, 7, [
      ['a', 1],
      ['b', 0],
      ['a', 29],
      ['c', 5],
      ['a', 57],
    ]),
  ],
  grown: [
    striped(0, 140, 7, [
      ['a', 1],
      ['b', 0],
      ['a', 29],
      ['c', 5],
      ['a', 57],
    ]),
    linear(140, 20, 'a', 85),
  ],
  devices: memoryDevices(3, 256, LARGE_BLOCKS),
  border: 7 * 512,
}));

targetSuite('striped, 130 stripes of one sector', () => ({
  table: [
    striped(
      0,
      260,
      1,
      Array.from({ length: 130 }, (_, i) => ['abc'[i % 3]!, i * 2] as const),
    ),
  ],
  grown: [
    striped(
      0,
      260,
      1,
      Array.from({ length: 130 }, (_, i) => ['abc'[i % 3]!, i * 2] as const),
    ),
    zero(260, 9),
  ],
  holes: [{ start: 260 * 512, end: 269 * 512, kind: 'zero' }],
  devices: memoryDevices(3, 512),
  border: 512,
}));

targetSuite('mirror of two, regions of 8 sectors', () => ({
  table: [
    mirror(0, 60, 8, [
      ['a', 3],
      ['b', 0],
    ]),
  ],
  grown: [
    mirror(0, 60, 8, [
      ['a', 3],
      ['b', 0],
    ]),
    mirror(60, 40, 32, [
      ['a', 63],
      ['c', 10],
    ]),
  ],
  devices: memoryDevices(3, 256),
  border: 8 * 512,
  background: true,
}));

targetSuite('mirror of three, 4096-byte blocks that legs share', () => ({
  table: [
    mirror(0, 50, 2, [
      ['a', 1],
      ['b', 3],
      ['a', 101],
    ]),
    linear(50, 7, 'a', 51),
  ],
  grown: [
    mirror(0, 50, 2, [
      ['a', 1],
      ['b', 3],
      ['a', 101],
    ]),
    linear(50, 20, 'a', 51),
  ],
  devices: memoryDevices(2, 256, LARGE_BLOCKS),
  border: 2 * 512,
  background: true,
  layered: true,
}));

const layer = (name: string, onB: number, onC: number): Layer => ({
  name,
  table: [
    mirror(0, 24, 8, [
      ['b', onB],
      ['c', onC],
    ]),
  ],
});

targetSuite('layers under linear and striped', () => ({
  table: [
    linear(0, 20, layer('vg/pvmove0', 5, 70), 4),
    striped(20, 48, 4, [
      ['a', 0],
      [{ name: 'vg/pvmove0', table: [linear(0, 24, layer('deep', 100, 150), 0)] }, 0],
    ]),
  ],
  grown: [
    linear(0, 20, 'b', 9),
    striped(20, 48, 4, [
      ['a', 0],
      ['b', 100],
    ]),
    linear(68, 9, { name: 'end', table: [zero(0, 3), linear(3, 6, 'a', 30)] }, 0),
  ],
  holes: [{ start: 68 * 512, end: 71 * 512, kind: 'zero' }],
  devices: memoryDevices(3, 256),
  border: 4 * 512,
  background: true,
  layered: true,
}));

targetSuite('zero', () => ({
  table: [zero(0, 32)],
  grown: [zero(0, 64)],
  holes: [{ start: 0, end: 64 * 512, kind: 'zero' }],
  devices: new Map(),
  border: 4096,
}));

targetSuite('error', () => ({
  table: [error(0, 32)],
  grown: [error(0, 32), zero(32, 8)],
  holes: [
    { start: 0, end: 32 * 512, kind: 'error' },
    { start: 32 * 512, end: 40 * 512, kind: 'zero' },
  ],
  devices: new Map(),
  border: 4096,
}));

targetSuite('all of them in one table', () => ({
  table: [
    linear(0, 9, 'a', 0),
    zero(9, 7),
    striped(16, 24, 2, [
      ['b', 0],
      ['c', 0],
    ]),
    error(40, 1),
    linear(41, 20, 'a', 9),
  ],
  grown: [
    linear(0, 9, 'a', 0),
    zero(9, 7),
    striped(16, 24, 2, [
      ['b', 0],
      ['c', 0],
    ]),
    error(40, 1),
    linear(41, 20, 'a', 9),
    striped(61, 30, 5, [
      ['c', 20],
      ['b', 20],
      ['a', 30],
    ]),
  ],
  holes: [
    { start: 9 * 512, end: 16 * 512, kind: 'zero' },
    { start: 40 * 512, end: 41 * 512, kind: 'error' },
  ],
  devices: memoryDevices(3, 256),
  border: 8 * 512,
}));

/** A target of the submit form: passes its requests on, each on a request of its own, and checks its borders. */
class Passing implements RequestOwner {
  readonly #device: BlockDevice;
  readonly #pool = new RequestPool();

  constructor(device: BlockDevice) {
    this.#device = device;
  }

  submit(request: IoRequest): void {
    const inner = this.#pool.acquire(this);
    inner.op = request.op;
    inner.flags = request.flags;
    inner.offset = request.offset;
    inner.length = request.length;
    inner.buffer = request.buffer;
    inner.bufferOffset = request.bufferOffset;
    inner.parent = request;
    this.#device.submit(inner);
  }

  ioDone(inner: IoRequest): void {
    const request = inner.parent!;
    request.error = inner.error;
    this.#pool.release(inner);
    request.owner.ioDone(request);
  }
}

const passing: TargetType<string> = {
  name: 'passing',
  version: '1.0.0',
  parse: (params) => String(params),
  create: (name, context) => {
    const device = context.device(name, 'device', 0, context.length);
    return {
      mapping: { kind: 'submit', sink: new Passing(device), splitBytes: 3 * 512 },
      tableText: () => name,
      status: () => ({ text: '', details: {} }),
    };
  },
};

targetSuite('a target of the submit form', () => ({
  table: [{ start: 0, length: 50, target: 'passing', params: 'a' }],
  grown: [
    { start: 0, length: 50, target: 'passing', params: 'a' },
    { start: 50, length: 20, target: 'passing', params: 'b' },
  ],
  devices: memoryDevices(2, 256, LARGE_BLOCKS),
  border: 3 * 512,
  targets: targetRegistry([passing]),
}));
