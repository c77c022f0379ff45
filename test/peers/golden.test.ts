/**
 * Volume groups made by Linux, served by the real daemon and read by nbdcopy and qemu-img: every LV that is served has the
 * manifest's hash, and an LV of a kind that can't be served yet is refused with its reason, never served wrongly.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { type Golden, unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest('hex');
}

interface Listed {
  readonly 'export-name': string;
  readonly 'export-size'?: number;
}

async function listExports(daemon: RunningDaemon): Promise<string[]> {
  const json = await mustRun('nbdinfo', ['--list', '--json', `nbd+unix://?socket=${daemon.socket}`]);
  const { exports } = JSON.parse(json) as { exports: Listed[] };
  return exports.map((item) => item['export-name']).sort();
}

async function withGolden(name: string, use: (golden: Golden, daemon: RunningDaemon) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const golden = await unpackGolden(name, folder);
    const daemon = await startDaemon(golden.images);
    try {
      await use(golden, daemon);
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
}

/** Copies the export by both clients and compares with the manifest. */
async function checkVolume(golden: Golden, daemon: RunningDaemon, name: string): Promise<void> {
  const expected = golden.volumes.find((volume) => volume.name === name);
  assert.ok(expected, `${name} is in the manifest`);
  const uri = daemon.uri(`${golden.vgName}/${name}`);
  const copies = { nbdcopy: join(golden.folder, `${name}.nbdcopy`), qemu: join(golden.folder, `${name}.qemu`) };
  await mustRun('nbdcopy', ['--connections=4', '--requests=64', uri, copies.nbdcopy]);
  await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, copies.qemu]);
  assert.equal(await sha256Of(copies.nbdcopy), expected.sha256, `${name} by nbdcopy`);
  assert.equal(await sha256Of(copies.qemu), expected.sha256, `${name} by qemu-img`);
}

/** What of each golden volume group can be served; all else in its manifest is refused. */
const SERVED: Record<string, readonly string[]> = {
  basic: ['lin', 'span', 'str'],
  snap: ['origin', 's1', 's2'],
  thin: [],
  raid: [],
  cache: [],
};

describe('golden volume groups', () => {
  for (const [name, served] of Object.entries(SERVED)) {
    test(name, async () => {
      await withGolden(name, async (golden, daemon) => {
        const listed = await listExports(daemon);
        for (const volume of golden.volumes) {
          const exportName = `${golden.vgName}/${volume.name}`;
          if (listed.includes(exportName)) {
            await checkVolume(golden, daemon, volume.name);
            continue;
          }
          assert.ok(!served.includes(volume.name), `${exportName} should be served:\n${daemon.log()}`);
          const refused = await runProgram('nbdinfo', [daemon.uri(exportName)]);
          assert.notEqual(refused.status, 0);
          assert.match(refused.stderr, new RegExp(volume.name), 'the refusal names the LV');
          assert.match(daemon.log(), new RegExp(`${volume.name}\\b`), 'the log gives the reason');
        }
      });
    });
  }
});
