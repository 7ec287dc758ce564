"""Other people's radios and brokers as links: Meshtastic, KISS, MeshCore, MQTT. Nothing is built yet."""
