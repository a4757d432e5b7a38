// CommonJS that imports when it needs it: on every Node, and under every rule of the compiler.
import type { Member } from 'fd-broker' with { 'resolution-mode': 'import' }

async function start(control: string): Promise<Member> {
  const { join } = await import('fd-broker')
  return await join({ service: 'shop', control })
}

export = start
