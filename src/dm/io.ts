/**
 * The volume interface as front ends see it: what nbd/ (and whatever else serves volumes) may use of the layers below dm/.
 *
 * Invariant: types and pooled requests only. A front end never sees how a volume is made.
 */
export { IoRequest, Op, RequestFlag, RequestPool, RequestQueue, type RequestOwner } from '../block/request.ts';
export { blockStatusOf, ExtentList, type StatusDone, type StatusSource } from '../block/extents.ts';
export type { BlockDevice, DeviceLimits } from '../block/device.ts';
export type { CacheSnapshot } from '../block/cache/stats.ts';
export { atTurnEnd } from '../block/turn.ts';
