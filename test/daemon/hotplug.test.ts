/** Noticing devices that come, go and change, and not noticing what is written to those that are held. */
import assert from 'node:assert/strict';
import { appendFile, mkdir, rename, rm, symlink, truncate, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { HotPlug } from '../../src/daemon/hotplug.ts';
import { createLog } from '../../src/daemon/log.ts';
import { waitFor } from '../helpers/daemon.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

const log = createLog({ level: 'silent', format: 'json' });
const QUIET_MS = 20;

interface Watched {
  /** Reasons of rescans so far. */
  readonly reasons: string[];
  readonly hotplug: HotPlug;
  /** Waits for a rescan for this reason, and forgets all so far. */
  readonly told: (reason: RegExp) => Promise<void>;
  /** What happened until a change that is seen for sure was seen. */
  readonly settled: () => Promise<readonly string[]>;
}

async function watching(
  devices: readonly string[],
  folder: string,
  use: (watched: Watched) => Promise<void>,
  options: { held?: boolean; rescanIntervalMs?: number; rescan?: (reason: string) => Promise<void> } = {},
): Promise<void> {
  const reasons: string[] = [];
  const beacon = join(folder, 'beacon');
  let beacons = 0;
  const hotplug = new HotPlug({
    settings: { devices: [...devices, join(beacon, 'b*')], rescanIntervalMs: options.rescanIntervalMs ?? 0 },
    rescan: (reason) => {
      reasons.push(reason);
      return options.rescan?.(reason) ?? Promise.resolve();
    },
    isHeld: () => options.held ?? true,
    log,
    quietMs: QUIET_MS,
  });
  await mkdir(beacon);
  await hotplug.start();
  const told = async (reason: RegExp): Promise<void> => {
    await waitFor(`a rescan because ${reason.source}`, () => reasons.some((each) => reason.test(each)), 10_000);
    reasons.length = 0;
  };
  const settled = async (): Promise<readonly string[]> => {
    const name = `b${beacons++}`;
    await writeFile(join(beacon, name), '');
    await waitFor('the beacon', () => reasons.some((reason) => reason.includes(name)), 10_000);
    return reasons.splice(0).filter((reason) => !reason.includes(name));
  };
  try {
    await use({ reasons, hotplug, told, settled });
  } finally {
    await hotplug.close();
  }
}

async function nothingNew({ settled }: Watched): Promise<void> {
  assert.deepEqual(await settled(), []);
}

describe('what is noticed', () => {
  test('files of a directory: new, gone, replaced, of another size', async () => {
    await withTemporaryFolder(async (folder) => {
      const place = join(folder, 'images');
      await mkdir(place);
      await writeFile(join(place, 'a.img'), 'x'.repeat(1024));
      await watching([place], folder, async ({ told }) => {
        await writeFile(join(place, 'b.img'), '');
        await told(/b\.img appeared/);
        await truncate(join(place, 'a.img'), 2048);
        await told(/a\.img has another size/);
        await rename(join(place, 'b.img'), join(place, 'a.img'));
        await told(/b\.img vanished.*a\.img was replaced/);
        await unlink(join(place, 'a.img'));
        await told(/a\.img vanished/);
      });
    });
  });

  test('a file by its path, whose directory is not there yet', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'one/two/disk.img');
      await watching([path], folder, async ({ told }) => {
        await mkdir(join(folder, 'one'));
        await mkdir(join(folder, 'one/two'));
        await writeFile(path, '');
        await told(/disk\.img appeared/);
        await rm(join(folder, 'one'), { recursive: true });
        await told(/disk\.img vanished/);
        await mkdir(join(folder, 'one/two'), { recursive: true });
        await writeFile(path, '');
        await told(/disk\.img appeared/);
      });
    });
  });

  test('patterns, also in directories, and the file behind a link', async () => {
    await withTemporaryFolder(async (folder) => {
      await mkdir(join(folder, 'hosts/a'), { recursive: true });
      await mkdir(join(folder, 'store'));
      await writeFile(join(folder, 'store/real'), '');
      await symlink(join(folder, 'store/real'), join(folder, 'link'));
      await watching([join(folder, 'hosts/*/*.img'), join(folder, 'link')], folder, async ({ told, settled }) => {
        await writeFile(join(folder, 'hosts/a/x.img'), '');
        await told(/a\/x\.img appeared/);
        await mkdir(join(folder, 'hosts/b'));
        await settled();
        await writeFile(join(folder, 'hosts/b/y.img'), '');
        await told(/b\/y\.img appeared/);
        await truncate(join(folder, 'store/real'), 512);
        await told(/link has another size/);
        await unlink(join(folder, 'store/real'));
        await told(/link vanished/);
      });
    });
  });

  test('what was written to a file that is not ours: it may be a physical volume now', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'disk.img');
      await writeFile(path, 'x'.repeat(512));
      const writing = async ({ told }: Watched): Promise<void> => {
        await writeFile(path, 'y'.repeat(512), { flag: 'r+' });
        await told(/disk\.img was written/);
      };
      await watching([path], folder, writing, { held: false });
    });
  });
});

test('writes to what is held are no news, however many, and other files of the directory neither', async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'disk.img');
    await writeFile(path, 'x'.repeat(512));
    await watching([path], folder, async ({ settled, told }) => {
      for (let round = 0; round < 500; round++) {
        await writeFile(path, 'y'.repeat(512), { flag: 'r+' });
        await appendFile(join(folder, 'other'), 'z');
      }
      assert.deepEqual(await settled(), []);
      await unlink(path);
      await told(/disk\.img vanished/);
    });
  });
});

async function beginOne({ hotplug, reasons }: Watched): Promise<void> {
  hotplug.request('forever');
  await waitFor('it to begin', () => reasons.length === 1);
  await hotplug.close();
}

describe('rescans', () => {
  test('at an interval, on request, and with other settings', async () => {
    await withTemporaryFolder(async (folder) => {
      const use = async ({ told, hotplug }: Watched): Promise<void> => {
        await told(/^rescan_interval$/);
        await hotplug.configure({ devices: [join(folder, 'x.img')], rescanIntervalMs: 0 });
        hotplug.request('errors of /dev/x');
        await told(/^errors of \/dev\/x$/);
        await writeFile(join(folder, 'x.img'), '');
        await told(/x\.img appeared/);
      };
      await watching([join(folder, 'y.img')], folder, use, { rescanIntervalMs: 30 });
    });
  });

  test('one that fails is not the last, they never overlap, and none comes after the end', async () => {
    await withTemporaryFolder(async (folder) => {
      let running = 0;
      let most = 0;
      let failures = 2;
      const rescan = async (): Promise<void> => {
        running++;
        most = Math.max(most, running);
        await new Promise((resolve) => setImmediate(resolve));
        running--;
        if (failures-- > 0) throw new Error('told so by the test');
      };
      let after: readonly string[] = [];
      const use = async ({ told, hotplug, reasons }: Watched): Promise<void> => {
        for (let i = 0; i < 5; i++) {
          for (let times = 0; times < 3; times++) hotplug.request(`reason ${i}`);
          await told(new RegExp(`reason ${i}`));
        }
        await hotplug.close();
        after = reasons;
        hotplug.request('too late');
        await writeFile(join(folder, 'x.img'), '');
      };
      await watching([join(folder, 'x.img')], folder, use, { rescan });
      assert.deepEqual([most, after], [1, []]);
    });
  });

  test('an interval of a year is one, and not a thousand rescans a second', async () => {
    await withTemporaryFolder(async (folder) => {
      await watching([join(folder, 'x.img')], folder, nothingNew, { rescanIntervalMs: 31_536_000_000 });
    });
  });

  test('what asks while one is slow is answered by one more', async () => {
    await withTemporaryFolder(async (folder) => {
      const slow = Promise.withResolvers<void>();
      const use = async ({ reasons, hotplug }: Watched): Promise<void> => {
        hotplug.request('first');
        await waitFor('it to begin', () => reasons.length === 1);
        for (let i = 0; i < 100; i++) hotplug.request('again');
        slow.resolve();
        await hotplug.configure({ devices: [join(folder, 'x.img')], rescanIntervalMs: 0 });
        assert.deepEqual(reasons, ['first', 'again']);
      };
      await watching([join(folder, 'x.img')], folder, use, { rescan: () => slow.promise });
    });
  });

  test('one that does not end holds nobody up at the end', async () => {
    await withTemporaryFolder(async (folder) => {
      const never = new Promise<void>(() => undefined);
      await watching([join(folder, 'x.img')], folder, beginOne, { rescan: () => never });
    });
  });
});
