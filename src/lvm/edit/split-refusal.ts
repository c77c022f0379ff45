/**
 * Why vgsplit can't split: which tie between LVs it would cut, in LVM2's words and in the order in which LVM2 looks (facts: LVM2
 * tools/vgsplit.c).
 */
import { segmentAreas } from '../references.ts';
import type { LvFacts, VgRelations } from '../relations.ts';

/** Ids of the PVs that an LV's own segments are on. */
export function ownPvs(relations: VgRelations, { lv }: LvFacts): readonly string[] {
  return lv.segments.flatMap((segment) =>
    segmentAreas(segment).flatMap((area) => relations.pvs.get(area.name)?.id ?? []),
  );
}

/** The reason for LVs that are tied together, some of which are on PVs that move and some on others. */
export function splitRefusal(relations: VgRelations, bundle: readonly LvFacts[], moving: ReadonlySet<string>): string {
  const cut = new Cut(relations, moving);
  for (const reason of REASONS) {
    for (const facts of bundle) {
      const message = reason(facts, cut);
      if (message !== null) return message;
    }
  }
  return `Can't split LV ${bundle[0]?.name} between two Volume Groups`;
}

type Reason = (facts: LvFacts, cut: Cut) => string | null;

const REASONS: readonly Reason[] = [raidReason, stripedReason, mirrorReason, thinReason, cacheReason, snapshotReason];

/** References that tie LVs together without one being a part of the other. */
const TIES: ReadonlySet<string> = new Set(['thin-origin', 'external-origin', 'thin-pool', 'snapshot-origin']);

class Cut {
  readonly relations: VgRelations;
  readonly #moving: ReadonlySet<string>;

  constructor(relations: VgRelations, moving: ReadonlySet<string>) {
    this.relations = relations;
    this.#moving = moving;
  }

  /** Whether these LVs, with their parts, are on both sides. */
  parts(...names: readonly (string | null)[]): boolean {
    const ids = names.flatMap((name) => (name === null ? [] : this.#pvsUnder(name)));
    return ids.some((id) => this.#moving.has(id)) && ids.some((id) => !this.#moving.has(id));
  }

  /** "vg/lv" */
  display(name: string | null): string {
    return `${this.relations.vg.name}/${name}`;
  }

  #pvsUnder(name: string): readonly string[] {
    const pvs: string[] = [];
    const seen = new Set<string>();
    const pending = [name];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const facts = this.relations.lvs.get(next);
      if (facts === undefined || seen.has(next)) continue;
      seen.add(next);
      pvs.push(...ownPvs(this.relations, facts));
      for (const use of facts.uses) if (!TIES.has(use.kind)) pending.push(use.name);
    }
    return pvs;
  }
}

function raidReason({ name, lv }: LvFacts, cut: Cut): string | null {
  const type = lv.segments[0]?.type;
  if ((type !== 'raid' && type !== 'raid0') || !cut.parts(name)) return null;
  return `Can't split LV ${name} between two Volume Groups`;
}

function stripedReason({ name, lv }: LvFacts, cut: Cut): string | null {
  if (lv.segments[0]?.type !== 'striped' || !cut.parts(name)) return null;
  return `Can't split Logical Volume ${name} between two Volume Groups`;
}

function mirrorReason({ name, lv }: LvFacts, cut: Cut): string | null {
  if (lv.segments[0]?.type !== 'mirror' || !cut.parts(name)) return null;
  return `Can't split mirror ${name} between two Volume Groups`;
}

function thinReason({ name, lv, pool }: LvFacts, cut: Cut): string | null {
  const [first] = lv.segments;
  if (first?.type === 'thin-pool' && cut.parts(name)) {
    return `Can't split pool data and metadata ${name} between two Volume Groups.`;
  }
  const external = first?.type === 'thin' ? (first.externalOrigin ?? null) : null;
  if (external === null || !cut.parts(external, pool)) return null;
  return `Can't split external origin ${cut.display(external)} and pool ${cut.display(pool)} between two Volume Groups.`;
}

function cacheReason(facts: LvFacts, cut: Cut): string | null {
  const { lvs } = cut.relations;
  const type = facts.lv.segments[0]?.type;
  if (type === 'cache-pool') {
    const { name, dataLv, metadataLv, usedBy } = facts;
    const user = usedBy.find((use) => use.kind === 'cache-pool')?.user;
    const origin = user === undefined ? null : (lvs.get(user)?.origin ?? null);
    if (!cut.parts(name, origin)) return null;
    const [data, metadata] = [`data ${cut.display(dataLv)}`, `metadata ${cut.display(metadataLv)}`];
    if (origin === null) return `Cannot split cache pool ${data} and its ${metadata} into separate VGs.`;
    const part = cut.parts(origin, dataLv) ? data : metadata;
    return `Cannot split cache origin ${cut.display(origin)} and its cache pool ${part} into separate VGs.`;
  }
  const { origin, pool } = facts;
  const usesVolume = (type === 'cache' || type === 'writecache') && pool !== null && lvs.get(pool)?.dataLv === null;
  if (!usesVolume || !cut.parts(origin, pool)) return null;
  return `Cannot split cache origin ${cut.display(origin)} and its cachevol ${cut.display(pool)} into separate VGs.`;
}

function snapshotReason({ name, snapshot }: LvFacts, cut: Cut): string | null {
  if (snapshot === null || !cut.parts(name, snapshot.origin)) return null;
  return `Can't split snapshot ${name} between two Volume Groups`;
}
