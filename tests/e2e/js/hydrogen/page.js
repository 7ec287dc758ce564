// The whole of Hydrogen, as hydrogen-view-sdk exports it: login, rooms, timeline, composer, encryption by libolm.

import { createNavigation, createRouter, FeatureSet, Platform, RootViewModel } from "hydrogen-view-sdk";

const assetPaths = {
    downloadSandbox: "assets/download-sandbox.html",
    worker: "assets/main.js",
    serviceWorker: "sw.js",
    olm: { wasm: "olm/olm.wasm", legacyBundle: "olm/olm_legacy.js", wasmBundle: "olm/olm.js" },
};
const platform = new Platform({ container: document.body, assetPaths, config: {}, options: { development: false } });
const navigation = createNavigation();
platform.setNavigation(navigation);
await platform.init();
const urlRouter = createRouter({ navigation, history: platform.history });
urlRouter.attach();
const features = await FeatureSet.load(platform.settingsStorage);
const vm = new RootViewModel({ platform, navigation, urlRouter, features });
await vm.load();
platform.createAndMountRootView(vm);
