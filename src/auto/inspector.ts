import type inspector from 'node:inspector'

/** The version before has the inspector's port (`--inspect`): this one gets a free port, which Node prints. */
export function openInspector(): void {
  const words = [...process.execArgv, ...(process.env.NODE_OPTIONS ?? '').split(/\s+/)]
  if (!words.some(word => /^--inspect(?:-brk|-wait)?(?:=|$)/.test(word))) return
  const { open, url } = process.getBuiltinModule('node:inspector') as typeof inspector
  if (url() === undefined) open(0)
}
