/** Two VGs with one id: a copy that was renamed is a VG of its own, a VG that was just renamed is not. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { changed, type Image, imagesOf, linear, pvHead, pvUuid, scanImages, vgText } from './images.ts';

const LVS = [{ name: 'a', segments: [linear(0, 2, 'pv0', 0)] }];
const OTHER_UUID = 'Copied-0000-0000-0000-0000-0000-copied';

/** A VG of one PV, of the same id as the one of `vgText`, on another device. */
function copyNamed(name: string, seqno: number): Image {
  const text = vgText(LVS, { pvs: 1, name }).replaceAll(pvUuid(0), OTHER_UUID).replace('seqno = 3', `seqno = ${seqno}`);
  const [image] = imagesOf(text, '/copy');
  assert(image !== undefined);
  return image;
}

/** "name seqno: devices" of every VG that a scan finds. */
async function groupsOf(images: readonly Image[]): Promise<readonly string[]> {
  const { volumeGroups } = await scanImages(images);
  return volumeGroups.map(({ vg, pvs }) => {
    const paths = pvs.map((pv) => pv.found?.device.path ?? 'missing');
    return `${vg.name} ${vg.seqno}: ${paths.join(' ')}`;
  });
}

describe('texts with the same VG id', () => {
  const original = imagesOf(vgText(LVS, { pvs: 2 }));

  test('of different names and PVs are two VGs, whichever was written last', async () => {
    for (const seqno of [1, 3, 9]) {
      const found = await groupsOf([...original, copyNamed('clone', seqno)]);
      assert.deepEqual(found.toSorted(), [`clone ${seqno}: /copy/pv0`, 'vg1 3: /img/pv0 /img/pv1']);
      const reversed = await groupsOf([copyNamed('clone', seqno), ...original]);
      assert.deepEqual(reversed.toSorted(), found.toSorted());
    }
  });

  test('of different names and the same PVs are one that was being renamed', async () => {
    const renamed = vgText(LVS, { pvs: 2, name: 'new' }).replace('seqno = 3', 'seqno = 4');
    const images = original.map((image, index) =>
      index === 0
        ? changed(image, { head: pvHead({ uuid: pvUuid(0), sizeBytes: image.sizeBytes, text: renamed }) })
        : image,
    );
    assert.deepEqual(await groupsOf(images), ['new 4: /img/pv0 /img/pv1']);
    assert.deepEqual(await groupsOf(images.toReversed()), ['new 4: /img/pv0 /img/pv1']);
  });

  test('of the same name are one, of which the newest counts', async () => {
    const found = await groupsOf([...original, copyNamed('vg1', 9)]);
    assert.deepEqual(found, ['vg1 9: /copy/pv0']);
  });
});
