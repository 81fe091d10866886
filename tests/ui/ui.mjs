// The gateway's page in a real browser, before a real gateway, daemon and engine.

import "./gate.mjs";
import "./playground.mjs";
import "./hostile.mjs";
import "./dashboard.mjs";
import "./looks.mjs";
