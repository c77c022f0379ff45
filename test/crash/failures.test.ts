/**
 * A write or a flush that fails, at every position of every kind of commit, once or from then on: the command says so or succeeds
 * with warnings, the volume group is as before or as after, and the next command works.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { OpenedDevice } from '../../src/block/device.ts';
import { Errno } from '../../src/block/errors.ts';
import { type Fate, FaultyDevice } from '../../src/block/faulty.ts';
import { type IoRequest, Op } from '../../src/block/request.ts';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { CASES, type Case, nextCommandWorks, PATHS, summary } from './cases.ts';
import { Machine } from './machine.ts';

class FaultyDisk extends FaultyDevice implements OpenedDevice {
  readonly kind: OpenedDevice['kind'];
  readonly identity: string;

  constructor(inner: OpenedDevice, decide: (request: IoRequest) => Fate) {
    super(inner);
    this.kind = inner.kind;
    this.identity = inner.identity;
    this.decide = decide;
  }
}

const MANNERS = {
  /** One request fails, and nothing of it is done. */
  once: () => ({ kind: 'fail', errno: Errno.EIO }),
  /** One request fails, and half of it is done. */
  torn: (request) =>
    request.op === Op.flush || request.length < 1024
      ? { kind: 'fail', errno: Errno.EIO }
      : { kind: 'torn', bytes: 512, errno: Errno.EIO },
  /** One request fails, but it was done. */
  late: (request) => ({ kind: 'torn', bytes: request.length, errno: Errno.EIO }),
} as const satisfies Record<string, (request: IoRequest) => Fate>;
type Manner = keyof typeof MANNERS | 'from then on';

/** Runs the commit with the request number `position` failing; tells whether there was such a request. */
async function cutAt(
  images: ReadonlyMap<string, Buffer>,
  { cut }: Case,
  position: number,
  manner: Manner,
): Promise<Attempt> {
  let count = 0;
  const dead = new Set<string>();
  const decide =
    (name: string) =>
    (request: IoRequest): Fate => {
      if (dead.has(name)) return { kind: 'fail', errno: Errno.EIO };
      if (request.op === Op.read || count++ !== position) return { kind: 'pass' };
      if (manner !== 'from then on')
        return request.op === Op.flush && manner === 'late' ? MANNERS.once() : MANNERS[manner](request);
      dead.add(name);
      return { kind: 'fail', errno: Errno.EIO };
    };
  const copies = new Map([...images].map(([path, image]) => [path, Buffer.from(image)]));
  const machine = new Machine(copies, { wrap: (device) => new FaultyDisk(device, decide(device.name)) });
  let failure: CommandError | null = null;
  try {
    await cut(machine);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    failure = error;
  }
  return { machine, failure, reached: count > position };
}

interface Attempt {
  readonly machine: Machine;
  readonly failure: CommandError | null;
  readonly reached: boolean;
}

interface Expectation {
  readonly before: string;
  readonly after: string;
  readonly where: string;
  /** Try the next command too. */
  readonly goOn: boolean;
}

async function check(attempt: Attempt, { before, after, where, goOn }: Expectation): Promise<void> {
  const { machine, failure } = attempt;
  const healthy = new Machine(machine.images());
  const scan = await healthy.scan();
  const now = summary(scan);
  assert(now === before || now === after, `${where}: neither before nor after: ${now}`);
  const said = [...machine.said, ...(failure?.lines ?? [])].join('\n');
  assert.match(said, /\/disk\d/, `${where}: nothing names the disk`);
  assert.match(said, /EIO/, `${where}: nothing says what happened: ${said}`);
  if (failure === null) assert.equal(now, after, `${where}: success without effect`);
  if (!goOn) return;
  try {
    await nextCommandWorks(healthy, scan.volumeGroups[0]?.vg.name ?? null);
  } catch (error) {
    throw new Error(`${where}: the next command fails`, { cause: error });
  }
}

void describe('failing writes and flushes', () => {
  for (const item of CASES) {
    void test(item.name, async () => {
      const first = Machine.empty(PATHS.length);
      await item.prepare(first);
      const images = first.images();
      const before = summary(await first.scan());
      await item.cut(first);
      const after = summary(await first.scan());
      for (const manner of ['once', 'torn', 'late', 'from then on'] as const) {
        let position = 0;
        for (; ; position++) {
          const attempt = await cutAt(images, item, position, manner);
          if (!attempt.reached) break;
          const where = `${manner}, request ${position}`;
          await check(attempt, { before, after, where, goOn: position % 3 === manner.length % 3 });
        }
        assert(position > 3, `only ${position} requests`);
      }
    });
  }
});
