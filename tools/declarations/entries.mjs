// @ts-check

/** The entries of the package, with the paths of their declarations in build/modules. */
export const ENTRIES = [
  { name: 'index', path: 'index.d.ts' },
  { name: 'proxy', path: 'proxy/index.d.ts' },
  { name: 'operator', path: 'operator.d.ts' },
  { name: 'adapter', path: 'adapter.d.ts' },
  { name: 'errors', path: 'errors.d.ts' },
  { name: 'stores', path: 'stores/index.d.ts' },
  { name: 'sources', path: 'sources/index.d.ts' },
  { name: 'streams', path: 'streams/index.d.ts' },
  { name: 'ws', path: 'ws/index.d.ts' },
  { name: 'socket-io', path: 'socket-io/index.d.ts' },
  { name: 'auto', path: 'auto/index.d.ts' },
]
