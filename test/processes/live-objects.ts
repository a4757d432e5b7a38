import v8 from 'node:v8'

interface Snapshot {
  readonly snapshot: {
    readonly meta: { readonly node_fields: string[]; readonly node_types: [string[], ...unknown[]] }
  }
  readonly nodes: number[]
}

/** Compiled code, and V8's notes on it: they grow for hundreds of rounds, because V8 optimizes ever more functions, and some again. */
const CODE: ReadonlySet<string> = new Set(['code', 'hidden', 'object shape', 'synthetic'])

/** Returns the bytes of all objects that are in use in this process, with the memory outside of the heap that belongs to them, without compiled code. */
export async function liveBytes(): Promise<number> {
  const chunks: Buffer[] = []
  for await (const chunk of v8.getHeapSnapshot()) chunks.push(chunk as Buffer)
  const { snapshot, nodes } = JSON.parse(Buffer.concat(chunks).toString()) as Snapshot
  const { node_fields: fields, node_types: types } = snapshot.meta
  const [type, size] = [fields.indexOf('type'), fields.indexOf('self_size')]
  let bytes = 0
  for (let at = 0; at < nodes.length; at += fields.length)
    if (!CODE.has(types[0][nodes[at + type]!]!)) bytes += nodes[at + size]!
  return bytes
}
