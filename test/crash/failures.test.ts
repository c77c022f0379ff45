/**
 * A read, write or flush that fails, at every position of every kind of commit, once or from then on: the command says so or
 * succeeds with warnings, the volume group is as before or as after, and the next command works.
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

/** How requests fail: one write or flush, one read, one write that is half or wholly done, or all of a device from one on. */
type Manner = 'once' | 'unreadable' | 'half or late' | 'from then on';

function fate({ op, length }: IoRequest, manner: Manner, position: number): Fate {
  const fails = { kind: 'fail', errno: Errno.EIO } as const;
  if (manner !== 'half or late' || op !== Op.write) return fails;
  return { kind: 'torn', bytes: position % 2 === 0 && length > 512 ? 512 : length, errno: Errno.EIO };
}

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
      if ((request.op === Op.read) !== (manner === 'unreadable') || count++ !== position) return { kind: 'pass' };
      if (manner !== 'from then on') return fate(request, manner, position);
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

void describe('failing reads, writes and flushes', () => {
  for (const item of CASES) {
    void test(item.name, async () => {
      const first = Machine.empty(PATHS.length);
      await item.prepare(first);
      const images = first.images();
      const before = summary(await first.scan());
      await item.cut(first);
      const after = summary(await first.scan());
      for (const manner of ['once', 'unreadable', 'half or late', 'from then on'] as const) {
        let position = 0;
        for (; ; position++) {
          const attempt = await cutAt(images, item, position, manner);
          if (!attempt.reached) break;
          const where = `${manner}, request ${position}`;
          await check(attempt, { before, after, where, goOn: position % 3 === manner.length % 3 });
        }
        assert(position > 3 || manner === 'unreadable', `only ${position} requests`);
      }
    });
  }
});
