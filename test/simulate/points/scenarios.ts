import type { ServiceScenario } from './service.js'

/** What one run of the rule plays; each is fixed, short, and without another trouble than that of its point. */
export const SCENARIOS: Readonly<Record<string, ServiceScenario>> = {
  /** The present version starts the next one, and the connections of clients move to it. */
  embedded: { hosting: 'embedded', during: run => void run.upgrade() },
  daemon: { hosting: 'daemon', during: run => void run.upgrade() },
  'next-daemon': { hosting: 'daemon', during: run => void run.upgrade('upgrade daemon') },
}
